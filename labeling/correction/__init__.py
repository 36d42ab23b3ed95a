"""Corrections of people, taken into the dataset at the next build."""
