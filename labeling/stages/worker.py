"""Environment variables that tell the network of a worker process which GPU is its own."""

WORKER_NUMBER = "SUBJECT_DIFFUSION_WORKER"
"""The variable of the environment that numbers the processes of a stage on this machine: 0, 1, …"""
RESERVED_GPUS = "SUBJECT_DIFFUSION_RESERVED_GPUS"
"""The variable of the environment that is set where a worker reserved GPUs: their numbers on its node."""
