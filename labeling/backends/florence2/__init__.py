"""Florence-2 (Xiao et al., 2024) from transformers, as captioner and as detector."""
