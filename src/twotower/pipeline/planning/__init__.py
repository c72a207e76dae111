"""Depths and storage of a cascade, chosen from measured costs and quality."""
