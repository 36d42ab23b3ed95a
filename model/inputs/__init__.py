"""What the model is given: prompts, subjects, layouts, and the tensors of a batch."""
