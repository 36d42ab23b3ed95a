"""Fill cavities of a subject's mask as the released code does (`SubjectConfig.fill_cavities`).

Axes: h w rows and columns of a mask.
"""

import cv2
import numpy as np
from jaxtyping import Bool


def fill_cavities(mask: Bool[np.ndarray, "*_n h w"]) -> Bool[np.ndarray, "*_n h w"]:
    """Return the pixels with mask at or before them and mask after them, both in their row and in their column.

    Pixels with mask on all four sides are filled; the last pixel of each row and column of the mask is lost. Training
    uses this.
    """
    return np.asarray(_between(mask, axis=-1) & _between(mask, axis=-2))


def fill_holes(mask: Bool[np.ndarray, "h w"]) -> Bool[np.ndarray, "h w"]:
    """Return the mask with everything inside its outer outlines filled; sampling uses this."""
    outlines, _ = cv2.findContours(mask.astype(np.uint8), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
    whole = cv2.drawContours(np.zeros(mask.shape, np.uint8), outlines, -1, 1, cv2.FILLED)
    return np.asarray(whole, dtype=bool)


def _between(mask: Bool[np.ndarray, "*_n h w"], axis: int) -> Bool[np.ndarray, "*_n h w"]:
    count = mask.cumsum(axis=axis)
    return np.asarray((count > 0) & (count < np.take(count, [-1], axis=axis)))
