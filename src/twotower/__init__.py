"""twotower: cascade ranking, from raw interactions to a measured funnel."""

__version__ = "0.1.0"
