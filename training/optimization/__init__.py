"""One optimizer step: the training state, the optimizer with its schedule, and the moving average."""
