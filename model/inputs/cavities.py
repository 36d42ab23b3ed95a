"""Fill cavities of a subject's mask as the released code does (`SubjectConfig.fill_cavities`).

Axes: h w rows and columns of a mask.
"""

import cv2
import numpy as np
from jaxtyping import Bool


def fill_cavities(mask: Bool[np.ndarray, "*_n h w"]) -> Bool[np.ndarray, "*_n h w"]:
    """Return the mask with cavities filled: pixels that have mask pixels on all four sides.

    As in the released code, the last mask pixel of each row and of each column is lost. Training uses this function.
    """
    return np.asarray(_between(mask, axis=-1) & _between(mask, axis=-2))


def fill_holes(mask: Bool[np.ndarray, "h w"]) -> Bool[np.ndarray, "h w"]:
    """Return the mask with all holes inside its outer outlines filled. Sampling uses this function."""
    outlines, _ = cv2.findContours(mask.astype(np.uint8), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
    whole = cv2.drawContours(np.zeros(mask.shape, np.uint8), outlines, -1, 1, cv2.FILLED)
    return np.asarray(whole, dtype=bool)


def _between(mask: Bool[np.ndarray, "*_n h w"], axis: int) -> Bool[np.ndarray, "*_n h w"]:
    count = mask.cumsum(axis=axis)
    return np.asarray((count > 0) & (count < np.take(count, [-1], axis=axis)))
