"""What can go wrong while a model is trained.

    TrainingError
      CheckpointError  a checkpoint is missing, is of another dataset or other settings, or cannot be written
      Diverged         too many steps in a row gave gradients that are no numbers; their batches are kept

A poisoned row is not an error: it costs itself and is counted.
"""


class TrainingError(Exception):
    """Base of every error raised on purpose by `training`."""


class CheckpointError(TrainingError):
    """A checkpoint is missing, does not fit this run, or cannot be written."""


class Diverged(TrainingError):
    """Too many steps in a row gave gradients that are no numbers."""
