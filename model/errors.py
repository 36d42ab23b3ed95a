"""What can go wrong while a model is put together or asked for an image.

    ModelError
      CheckpointError  weights are missing, unreadable, or do not fit each other
      PromptError      a prompt cannot be written: it names the placeholder, or its clauses alone are too long

Bad settings are pydantic's ValidationError, before anything is loaded.
"""


class ModelError(Exception):
    """Base of every error raised on purpose by `model`."""


class CheckpointError(ModelError):
    """Weights are missing, unreadable, or do not fit the other parts."""


class PromptError(ModelError):
    """A prompt cannot be written as the template asks."""
