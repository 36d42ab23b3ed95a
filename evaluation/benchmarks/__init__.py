"""Benchmarks as data: subjects, prompts and boxes, from published lists or from a file of the user."""
