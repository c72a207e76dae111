"""Training: one loop, and the values around it."""
