"""The funnel report as one HTML page that needs nothing else."""
