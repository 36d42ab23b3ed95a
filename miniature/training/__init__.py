"""Training of the small networks: the loop in `train`, and a module with data and losses for each network."""
