"""Cleaning of a labelled dataset: duplicates across shards, unsafe images, and doubtful entities. Off by default."""
