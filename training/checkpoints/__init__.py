"""Checkpoints: their content, and how they are written, verified and pruned."""
