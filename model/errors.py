"""Errors raised while a model is assembled, loaded or sampled.

    ModelError
      ModelWeightsError  weights are missing, unreadable, or do not fit each other
      PromptError        a prompt does not fit the template: it contains the placeholder, or its clauses are too long

Invalid settings raise pydantic's ValidationError before anything is loaded.
"""


class ModelError(Exception):
    """Base of every error raised on purpose by `model`."""


class ModelWeightsError(ModelError):
    """Weights are missing, unreadable, or do not fit the other parts."""


class PromptError(ModelError):
    """A prompt does not fit the template."""
