"""FLOPs and memory of a model, counted without allocating it, and recomputation that saves memory."""
