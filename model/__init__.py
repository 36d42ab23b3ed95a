"""Subject-Diffusion: the networks, losses and sampler of Sec. 3, one module per part of Fig. 3."""
