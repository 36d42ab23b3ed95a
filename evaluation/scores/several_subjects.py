"""Likeness of one image to several subjects at once.

The mean is what the papers print; it hides a missing subject, which the product (M-DINO of MS-Bench) and the minimum
show.
"""

import numpy as np
from jaxtyping import Float


def mean_over_subjects(similarities: Float[np.ndarray, "N S"]) -> Float[np.ndarray, " N"]:
    """Return the mean of an image's similarities to its subjects (Sec. 4.2)."""
    return np.asarray(similarities.mean(axis=1))


def lowest_over_subjects(similarities: Float[np.ndarray, "N S"]) -> Float[np.ndarray, " N"]:
    """Return the similarity to the subject that the image shows least."""
    return np.asarray(similarities.min(axis=1))


def product_over_subjects(similarities: Float[np.ndarray, "N S"]) -> Float[np.ndarray, " N"]:
    """Return the product of the similarities, with negative ones as 0, so that two of them are no success."""
    return np.asarray(np.clip(similarities, 0, None).prod(axis=1))
