"""Cache of the frozen networks' features, computed once before training."""
