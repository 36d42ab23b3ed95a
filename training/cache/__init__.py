"""Features of the frozen networks, computed once before training."""
