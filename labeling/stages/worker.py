"""Environment variables that tell the network of a worker process which GPU to use."""

WORKER_NUMBER = "SUBJECT_DIFFUSION_WORKER"
"""Variable with the number of the worker among those of its stage on this machine: 0, 1, …"""
RESERVED_GPUS = "SUBJECT_DIFFUSION_RESERVED_GPUS"
"""Variable with the numbers, on its node, of the GPUs that the worker reserved; unset if it reserved none."""
