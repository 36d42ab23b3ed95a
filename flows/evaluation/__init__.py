"""Evaluations from the command line: which images, made or given, which networks, and where they run."""
