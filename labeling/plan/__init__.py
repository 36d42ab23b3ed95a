"""The plan of a build: time, GPUs, storage and money for a list of any length, from a pilot on some of its URLs."""
