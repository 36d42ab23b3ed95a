"""SAM, from segment-anything or from transformers."""
