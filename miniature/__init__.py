"""A small world with ground truth, in which all of the project runs without a download."""
