"""A small world with ground truth, on which the whole project runs without a download."""
