"""From noise to images: denoising steps, guidance (Eq. 4) and what a request may set."""
