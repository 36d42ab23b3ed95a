"""Scores of the small networks: labels, the base model, and personalised images."""
