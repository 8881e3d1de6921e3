"""Training: one readable script for each framework, with the same network and the same recipe."""
