"""Facts of the committed Subject-Diffusion model, read from its settings, so that new weights keep the tests true."""

import json

from flows.generation.generator import DEFAULT_MODEL

MAX_SUBJECTS: int = json.loads((DEFAULT_MODEL / "settings.json").read_text())["model"]["max_subjects"]
"""Subjects that the model takes in one image."""
