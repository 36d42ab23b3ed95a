"""Inputs of the model: prompts, subjects, layouts and batches."""
