"""Places a square crop in an image and chooses the subjects that it holds together.

A crop has the length of the image's shorter side, so it moves along the longer side only. It holds a subject over a
range of offsets: [x1 - side, x0] if the subject is shorter than the crop. A longer subject does not fit; there the
range is [x0, x1 - side], in which it fills the crop. Subjects are held together where their ranges overlap.

Axes: N rows, E entities of a row, padded with NaN.
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
    """First and last offset of a crop along the image's longer side, in pixels, at which it holds each entity."""

    first: Float[np.ndarray, "*N E"]
    last: Float[np.ndarray, "*N E"]


def crop_offsets(boxes: Boxes, width_px: Int[np.ndarray, "*N"], height_px: Int[np.ndarray, "*N"]) -> Offsets:
    """Return the range of offsets that holds each entity; NaN where there is no entity.

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


def crop_contents(ranges: Offsets) -> Bool[np.ndarray, "*N E E"]:
    """Return a matrix that is true at [i, j] if the crop at the start of entity i's range also holds entity j.

    These crops suffice: entities that one crop can hold are all in the crop at the start of one of their ranges.
    """
    at = ranges.first[..., :, None]
    is_held: NDArray[np.bool_] = (ranges.first[..., None, :] <= at) & (at <= ranges.last[..., None, :])
    return is_held


def crop_capacity(
    boxes: Boxes, width_px: Int[np.ndarray, "*N"], height_px: Int[np.ndarray, "*N"], at_most: int
) -> Int[np.ndarray, "*N"]:
    """Return the largest number of entities of each row that one crop can hold.

    It is at least 1, so that rows with invalid boxes are planned, and reported when they are loaded.
    """
    together = crop_contents(crop_offsets(boxes, width_px, height_px)).sum(axis=-1).max(axis=-1, initial=0)
    counts: NDArray[np.int64] = np.clip(together, 1, at_most)
    return counts


def draw_subjects(ranges: Offsets, count: int, rng: np.random.Generator) -> list[int]:
    """Draw `count` entities of a row that one crop can hold, and return their indices in ascending order."""
    together = crop_contents(ranges)
    enough = np.flatnonzero(together.sum(axis=1) >= count)
    choices = np.flatnonzero(together[rng.choice(enough)])
    return sorted(int(index) for index in rng.choice(choices, count, replace=False))


def draw_square(ranges: Offsets, width_px: int, height_px: int, reduction: int, rng: np.random.Generator) -> Square:
    """Draw a crop that holds all entities of `ranges`; there must be one.

    Args:
        reduction: factor by which the image is reduced. The crop starts and ends at multiples of it, so an entity may
            exceed the crop by less than that.
    """
    first, last = math.ceil(ranges.first.max() / reduction), math.floor(ranges.last.min() / reduction)
    side = reduction * (min(width_px, height_px) // reduction)
    furthest = (max(width_px, height_px) - side) // reduction
    offset = reduction * min(int(rng.integers(first, max(first, last) + 1)), furthest)
    return Square(offset, 0, side) if width_px >= height_px else Square(0, offset, side)
