"""Errors of the data. An error of the dataset ends the job; an error of a row skips that row and is counted."""

from collections.abc import Callable
from typing import TypeVar

from upath import UPath

from training.errors import TrainingError

T = TypeVar("T")


class DatasetError(TrainingError):
    """The dataset is missing or empty, or a shard is missing, damaged, of another version or not the planned one."""


class StorageFault(DatasetError):
    """The storage failed while a shard was read. The error is transient: a retry may succeed."""

    @classmethod
    def of(cls, path: UPath, error: OSError) -> "StorageFault":
        """Return the fault for an error of reading `path`."""
        return cls(f"{path} cannot be read ({error}). Check the storage and resume")


class CacheError(DatasetError):
    """A file of the cache that the settings name is missing, stale or damaged."""


class PoisonedRow(TrainingError):
    """A row cannot be trained on. It is left out of its batch and reported (`loader.SkippedRow`)."""

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(detail)
        self.reason = reason
        """Reason in one word, by which rows are counted."""


def catch_poisoned(make: Callable[[], T]) -> "T | PoisonedRow":
    """Return the result of `make` for a row, or the error because of which the row is skipped.

    Raises:
        DatasetError: the dataset or its storage is at fault.
        MemoryError: the process has too little memory.
    """
    try:
        return make()
    except (DatasetError, MemoryError):
        raise
    except PoisonedRow as poison:
        return poison
    except Exception as error:  # an unexpected error skips one row instead of ending the job
        return PoisonedRow(type(error).__name__, str(error))
