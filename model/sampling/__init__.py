"""Sampling: denoising steps, guidance, interpolation (Eq. 4) and their settings."""
