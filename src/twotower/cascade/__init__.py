"""Stages as values that compose into one funnel."""
