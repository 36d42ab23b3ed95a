"""Errors of a dataset build, and of a cut-out.

    LabelingError
      BadInput             the list of URLs is unusable: no such file, no URL column, no rows
      BackendWeightsError  weights are missing, unreadable, or of another network
      CaptionApiError      the API of the captioner does not answer, or refuses the key
      CorrectionError      a file of corrections is unusable, or corrects an image that the dataset lacks
      CutoutError          a photo cannot be cut out: no image, a mask of another size, a box outside
        NothingFound       the networks found no such subject in the photo
      DeviceError          a setting requests a GPU that does not exist
      ExchangeError        a dataset cannot be exported, or the files of another program cannot be imported
      ExplorerError        a question about a dataset cannot be answered: invalid SQL, a timeout, no such image
      ImagesLost           a file of images/ is missing, and its URLs no longer give the images of later files
      QualityError         an audit of quality cannot be drawn, read or marked
      ShardCorrupt         a file lacks rows or columns, or is damaged
      ShardStale           a file was made under other settings, and may not be replaced without permission
      StageContract        a stage broke its contract (one result per image, in order)
      StageFailed          a stage could not make all of its files: workers do not start, or too many attempts
        StageInterrupted   the same for a retryable reason, such as a storage that did not answer

A bad image is not an error: it gets a `Verdict` with its reason, and the run continues.
"""


class LabelingError(Exception):
    """Base of every error raised on purpose by `labeling`."""


class BadInput(LabelingError):
    """The list of URLs is unusable."""


class BackendWeightsError(LabelingError):
    """Weights are missing, unreadable, or not those of the backend that loads them."""


class CorrectionError(LabelingError):
    """A file of corrections is unusable, or corrects an image that the dataset lacks."""


class CaptionApiError(LabelingError):
    """The API of the captioner does not answer, or refuses the key."""


class CutoutError(LabelingError):
    """A photo, mask, box or label is unusable for a cut-out."""


class NothingFound(CutoutError):
    """The detector found no box of the label, or the segmenter no pixel of the box."""


class DeviceError(LabelingError):
    """A setting requests a GPU that does not exist, or reserves one that the stage would not use."""


class ExchangeError(LabelingError):
    """A dataset cannot be exported, or the files of another program cannot be imported."""


class ExplorerError(LabelingError):
    """A question about a dataset cannot be answered: invalid SQL, a timeout, no such image."""


class ImagesLost(LabelingError):
    """A file of images/ is missing, and its URLs no longer give the images from which later files were made."""


class QualityError(LabelingError):
    """An audit of quality cannot be drawn, read or marked."""


class ShardCorrupt(LabelingError):
    """A file lacks rows or columns, or is damaged."""


class ShardStale(LabelingError):
    """A file was made under other settings than this run's."""


class StageContract(LabelingError):
    """A stage broke its contract: one result per image, in order."""


class StageFailed(LabelingError):
    """A stage could not make all of its files."""


class StageInterrupted(StageFailed):
    """A stage could not make all of its files for a retryable reason, such as a storage that did not answer."""
