"""The report of a dataset: one HTML page with its numbers and with samples of its images."""
