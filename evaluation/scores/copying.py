"""Copy-paste: whether an image repeats its input photo instead of showing the subject.

A photo of the subject is about as similar to the input photo as to the subject's other photos. A copy of the input is
much more similar to the input. The difference of the two is the score; it needs a second photo of the subject.
"""

import numpy as np
from jaxtyping import Float


def copy_scores(to_references: Float[np.ndarray, "N R"], input_index: int) -> Float[np.ndarray, " N"]:
    """Return each image's similarity to the input photo minus its mean similarity to the subject's other photos.

    Args:
        to_references: similarities of images to all photos of the subject.
        input_index: number of the input photo among them.

    Raises:
        ValueError: the subject has one photo only.
    """
    if to_references.shape[1] < 2:
        raise ValueError("a subject with one photo has no copy score: it takes a second photo")
    others = np.delete(to_references, input_index, axis=1).mean(axis=1)
    return np.asarray(to_references[:, input_index] - others)


def copy_bounds(between_photos: Float[np.ndarray, "R R"], input_index: int) -> tuple[float, float]:
    """Return the mean copy score of the subject's other photos, and that of the input photo itself.

    Another photo is compared with the photos that are neither itself nor the input. Two photos alone leave none, and
    then an ordinary photo counts as 0.

    Args:
        between_photos: similarities of the subject's photos to each other.
        input_index: number of the input photo among them.
    """
    copied = float(copy_scores(between_photos[input_index : input_index + 1], input_index)[0])
    others = [number for number in range(len(between_photos)) if number != input_index]
    if len(others) < 2:
        return 0.0, copied
    rest = between_photos[np.ix_(others, others)]
    to_rest = (rest.sum(axis=1) - np.diag(rest)) / (len(others) - 1)
    return float((between_photos[others, input_index] - to_rest).mean()), copied
