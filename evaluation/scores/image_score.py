"""The score of one image by one metric: a row of the file that an evaluation writes."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class ImageScore:
    """One image, one metric."""

    case: str
    """Name of the image's case, such as `cat2/03`."""
    index: int
    """Number of the image within its case, from 0."""
    subjects: str
    """Names of the case's subjects, joined by `+`: the unit of averages, intervals and tests."""
    group: str
    """Kind of change that the prompt asks for, such as `place`."""
    metric: str
    """Name of the metric, such as `CLIP-I`."""
    value: float | None
    """The score; None if the image has none."""
    pairs: int
    """Number of comparisons behind the score, its weight in a mean over pairs."""
    reason: str = ""
    """Cause of a score that is None or counts as 0, such as `missing`."""
