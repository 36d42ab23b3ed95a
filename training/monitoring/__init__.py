"""Monitoring of a training job: metrics, speed, the identity probe and sample images."""
