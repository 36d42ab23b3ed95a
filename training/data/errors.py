"""What can be wrong with the data: as a whole, which ends the job, or with a row, which costs that row and a count."""

from collections.abc import Callable
from typing import TypeVar

from upath import UPath

from training.errors import TrainingError

T = TypeVar("T")


class DatasetError(TrainingError):
    """There is no dataset, it has no rows, or a shard is gone, damaged, of another version or another than planned."""


class StorageFault(DatasetError):
    """The storage failed while a shard was read: another attempt may succeed."""

    @classmethod
    def of(cls, path: UPath, error: OSError) -> "StorageFault":
        """What was said when `path` was read."""
        return cls(f"{path} cannot be read ({error}): see to the storage and resume")


class CacheError(DatasetError):
    """Of the cache that the settings name a file is missing, is of other settings or weights, or damaged."""


class PoisonedRow(TrainingError):
    """A row cannot be trained on: it is left out of its batch and reported (`loader.Skipped`)."""

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(detail)
        self.reason = reason
        """One countable word."""


def unless_poisoned(make: Callable[[], T]) -> "T | PoisonedRow":
    """What `make` makes of a row, or why it cannot; what is not the row's fault is raised."""
    try:
        return make()
    except (DatasetError, MemoryError):
        raise
    except PoisonedRow as poison:
        return poison
    except Exception as error:  # what nobody thought of costs a row, too
        return PoisonedRow(type(error).__name__, str(error))
