"""Scores as functions of embeddings, boxes and labels, with their intervals."""
