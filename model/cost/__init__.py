"""What a model costs: parameters, FLOPs and memory, counted without allocating it."""
