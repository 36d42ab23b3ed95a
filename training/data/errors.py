"""What can be wrong with a dataset as a whole. A bad row is none of it: it is skipped, with its reason, and counted."""

from training.errors import TrainingError


class DatasetError(TrainingError):
    """There is no dataset, it has no rows, or a shard is gone, damaged, of another version or another than planned."""
