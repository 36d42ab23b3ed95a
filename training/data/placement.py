"""Which subjects of an image a square crop can hold together, and where it then lies.

A crop is as large as the image lets it be, so it moves along the longer side only, and each subject is held by a range
of its offsets: [x1 - side, x0] where the subject is shorter than the side. A longer one cannot be held whole; there the
range is [x0, x1 - side], in which it fills the crop. Subjects are held together where their ranges overlap.

Axes: N rows, E entities of a row, filled up with NaN.
"""

import math
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int
from numpy.typing import NDArray

Boxes = Float[np.ndarray, "*N E 4"]


class Square(NamedTuple):
    """A crop, in pixels of the image."""

    left: int
    top: int
    side: int


class Offsets(NamedTuple):
    """Of the crop along the image's longer side, in pixels: the first and the last that hold an entity."""

    first: Float[np.ndarray, "*N E"]
    last: Float[np.ndarray, "*N E"]


def offsets(boxes: Boxes, width_px: Int[np.ndarray, "*N"], height_px: Int[np.ndarray, "*N"]) -> Offsets:
    """The range of offsets that holds each entity; NaN where there is none.

    Args:
        boxes: xyxy in pixels; NaN where there is no entity.
    """
    side = np.minimum(width_px, height_px)[..., None]
    is_wide = (width_px >= height_px)[..., None]
    start = np.where(is_wide, boxes[..., 0], boxes[..., 1])
    end = np.where(is_wide, boxes[..., 2], boxes[..., 3])
    furthest = np.abs(width_px - height_px)[..., None]
    first, last = (
        np.clip(edge, 0, furthest) for edge in (np.minimum(start, end - side), np.maximum(start, end - side))
    )
    return Offsets(first, last)


def held(ranges: Offsets) -> Bool[np.ndarray, "*N E E"]:
    """Whether entity j is held where the range of entity i begins: any set held together is, at one of these places."""
    at = ranges.first[..., :, None]
    is_held: NDArray[np.bool_] = (ranges.first[..., None, :] <= at) & (at <= ranges.last[..., None, :])
    return is_held


def most_held(
    boxes: Boxes, width_px: Int[np.ndarray, "*N"], height_px: Int[np.ndarray, "*N"], at_most: int
) -> Int[np.ndarray, "*N"]:
    """How many entities of each row one crop can hold: at least 1, so that a row whose boxes are none is still met."""
    together = held(offsets(boxes, width_px, height_px)).sum(axis=-1).max(axis=-1, initial=0)
    counts: NDArray[np.int64] = np.clip(together, 1, at_most)
    return counts


def drawn_subjects(ranges: Offsets, count: int, rng: np.random.Generator) -> list[int]:
    """Entities of one row, in their order, `count` of them held together; which ones is drawn."""
    together = held(ranges)
    enough = np.flatnonzero(together.sum(axis=1) >= count)
    choices = np.flatnonzero(together[rng.choice(enough)])
    return sorted(int(index) for index in rng.choice(choices, count, replace=False))


def drawn_square(ranges: Offsets, width_px: int, height_px: int, pitch: int, rng: np.random.Generator) -> Square:
    """A crop that holds all entities of `ranges`, for which there is one.

    Args:
        pitch: of the pixels that are decoded, which the crop begins and ends at. An entity may reach over its edge by
            less than that.
    """
    first, last = math.ceil(ranges.first.max() / pitch), math.floor(ranges.last.min() / pitch)
    side = pitch * (min(width_px, height_px) // pitch)
    furthest = (max(width_px, height_px) - side) // pitch
    offset = pitch * min(int(rng.integers(first, max(first, last) + 1)), furthest)
    return Square(offset, 0, side) if width_px >= height_px else Square(0, offset, side)
