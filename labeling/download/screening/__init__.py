"""Screening of what a URL gave: its values in the list, and the type, size and hash of its bytes."""
