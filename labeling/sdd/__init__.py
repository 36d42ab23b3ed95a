"""The Subject-Diffusion Dataset on disk: row schema, shards, masks, pixels, queries. Needs no PyTorch."""
