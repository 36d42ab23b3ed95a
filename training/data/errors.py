"""What can be wrong with the data: as a whole, which ends the job, or with a row, which costs that row and a count."""

from training.errors import TrainingError


class DatasetError(TrainingError):
    """There is no dataset, it has no rows, or a shard is gone, damaged, of another version or another than planned."""


class PoisonedRow(TrainingError):
    """A row cannot be trained on: it is left out of its batch and reported (`loader.Skipped`)."""

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(detail)
        self.reason = reason
        """One countable word."""
