"""Shared plumbing and deployment files: settings, storage, logging. Imports nothing of ours."""
