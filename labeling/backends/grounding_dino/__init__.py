"""Grounding DINO, from groundingdino-py or from transformers."""
