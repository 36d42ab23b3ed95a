"""Errors of training.

    TrainingError
      CheckpointError  a checkpoint is missing, belongs to another dataset or other settings, or cannot be written
      Diverged         too many steps in a row gave non-finite gradients; the batches of the last one are saved
      DatasetError     the dataset or its cache cannot be read (see `training.data.errors`)

A row that cannot be trained on does not end the job: it is skipped and counted.
"""


class TrainingError(Exception):
    """Base of every error raised on purpose by `training`."""


class CheckpointError(TrainingError):
    """A checkpoint is missing, does not fit this run, or cannot be written."""


class Diverged(TrainingError):
    """Too many steps in a row gave non-finite gradients."""
