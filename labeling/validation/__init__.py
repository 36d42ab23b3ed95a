"""Validation of a dataset: every invariant of the format is a function, and its name is the name of the check."""
