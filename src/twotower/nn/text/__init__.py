"""Texts become vectors: a vector per token, and one of the whole text."""
