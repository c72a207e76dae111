"""Scores: how a query's and an item's representation meet, and scoring of the whole catalogue."""
