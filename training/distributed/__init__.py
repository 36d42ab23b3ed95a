"""Training on several workers: the cluster, the global batch, and networks in DDP or FSDP2."""
