"""Every ranking model: two towers and an interaction. One paper, one file."""
