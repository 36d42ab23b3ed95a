"""What can go wrong while building the SDD.

    LabelingError
      BadInput         the URL list cannot be used: no such file, no URL column, nothing in it
      CheckpointError  weights are missing, unreadable, or not those of the backend
      DeviceError      a setting asks for a GPU that is not there
      ImagesLost       a file of images/ is gone, and its URLs give other images than later files were made from
      ShardCorrupt     a shard on disk does not have the rows or columns it should
      ShardStale       a shard was written under other settings; nothing is overwritten silently
      StageContract    a stage broke its promise (one result per image, in order)
      StageFailed      a stage could not make all of its files: workers that will not start, too many attempts
        StageInterrupted  the same, but another try may help: a storage that did not answer

A bad image is not an error: it becomes a `Verdict` with its reason and the run goes on.
"""


class LabelingError(Exception):
    """Base of every error raised on purpose by `labeling`."""


class BadInput(LabelingError):
    """The list of URLs cannot be used."""


class CheckpointError(LabelingError):
    """Weights are missing, unreadable, or not those of the backend that was asked to load them."""


class DeviceError(LabelingError):
    """A setting asks for a GPU that is not there, or reserves one that would not be used."""


class ImagesLost(LabelingError):
    """A file of images/ is gone, and its URLs do not give the images again that later files were made from."""


class ShardCorrupt(LabelingError):
    """A shard on disk does not have the rows or columns it should."""


class ShardStale(LabelingError):
    """A shard was written under other settings than those of this run."""


class StageContract(LabelingError):
    """A stage broke its promise: one result per image, in order."""


class StageFailed(LabelingError):
    """A stage could not make all of its files."""


class StageInterrupted(StageFailed):
    """A stage could not make all of its files for reasons that may pass, as a storage that did not answer."""
