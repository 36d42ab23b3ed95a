"""Weights on disk: the folders that a model is saved to, and the bases that it starts from."""
