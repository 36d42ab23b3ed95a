"""Labels that people gave: a name with a box, and perhaps a mask, as the index of an import stores them."""

from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray
from pycocotools import mask as coco
from pydantic import BaseModel, ConfigDict

from labeling.errors import CutoutError
from labeling.photo import read_mask
from labeling.sdd.schema import Box

BoxSides: TypeAlias = tuple[float, float, float, float]
_TOLERANCE_PX = 2.0
"""Distance by which a box may exceed its image, in pixels: rounding of other programs."""


class RunLengths(BaseModel):
    """Run lengths of a whole image, as COCO writes them: compressed text, or numbers."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    size: tuple[int, int]
    """Height and width in pixels."""
    counts: str | tuple[int, ...]
    """Run lengths, column by column."""


class GivenLabel(BaseModel):
    """A label of an image. At most one of the three forms of a mask is given."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    label: str
    """Name of the class, in lower case."""
    box: BoxSides
    """Left, top, right and bottom side, in pixels, or as shares of the image's sides if `is_relative`."""
    is_relative: bool = False
    """Whether the box is in shares of the image's sides."""
    image_size: tuple[int, int] | None = None
    """Width and height of the image in pixels, to which the label refers; None if the source does not give them."""
    refusal: str = ""
    """Reason in one word why the label is left out: group, body_part. Empty if it is not."""
    polygons: tuple[tuple[float, ...], ...] = ()
    """Outlines of the mask: x, y, x, y, ... in pixels."""
    run_lengths: RunLengths | None = None
    """Mask as run lengths."""
    mask_file: str | None = None
    """Path of the mask as an image, of any size with the proportions of the image."""


@dataclass(frozen=True, slots=True)
class PlacedLabel:
    """A label with its box in pixels of the image, or the reason why it is left out."""

    given: GivenLabel
    box: Box
    refusal: str
    """group, body_part, other_size, box_not_finite, box_outside, empty_box; empty if the label is kept."""


def place(given: GivenLabel, width_px: int, height_px: int) -> PlacedLabel:
    """Return the label with its box in pixels, clipped to an image of this size."""
    sides = (width_px, height_px, width_px, height_px)
    box = np.array(given.box, np.float64) * (sides if given.is_relative else 1.0)
    refusal = given.refusal or _refusal(given, box, width_px, height_px)
    x0, y0, x1, y1 = np.clip(np.nan_to_num(box), 0, sides).tolist()
    return PlacedLabel(given, Box(x0=x0, y0=y0, x1=x1, y1=y1), refusal)


def mask_of(given: GivenLabel, width_px: int, height_px: int) -> NDArray[np.bool_] | None:
    """Return the mask [height_px, width_px] of a label; None if none was given, or if its file is missing.

    Raises:
        ValueError: the mask is malformed, or of another size than the image.
    """
    if given.mask_file is not None:
        return _mask_in_file(Path(given.mask_file), width_px, height_px)
    if given.run_lengths is not None:
        runs = given.run_lengths.model_dump()
        counts = runs["counts"]
        encoded = coco.frPyObjects(runs, *runs["size"]) if isinstance(counts, tuple) else runs
        mask = coco.decode(encoded).astype(bool)
    elif given.polygons:
        parts = coco.frPyObjects([list(points) for points in given.polygons], height_px, width_px)
        mask = coco.decode(coco.merge(parts)).astype(bool)
    else:
        return None
    if mask.shape != (height_px, width_px):
        raise ValueError(f"the mask has {mask.shape[1]}x{mask.shape[0]} pixels, its image {width_px}x{height_px}")
    return np.asarray(mask)


def _mask_in_file(path: Path, width_px: int, height_px: int) -> NDArray[np.bool_] | None:
    if not path.is_file():
        return None
    try:
        mask = read_mask(path)
    except CutoutError as error:
        raise ValueError(str(error)) from error
    rows = (np.arange(height_px) * mask.shape[0]) // height_px
    columns = (np.arange(width_px) * mask.shape[1]) // width_px
    return np.asarray(mask[rows[:, None], columns])


def _refusal(given: GivenLabel, box: NDArray[np.float64], width_px: int, height_px: int) -> str:
    if given.image_size not in (None, (width_px, height_px)):
        return "other_size"
    if not np.isfinite(box).all():
        return "box_not_finite"
    x0, y0, x1, y1 = box
    if min(x0, y0) < -_TOLERANCE_PX or x1 > width_px + _TOLERANCE_PX or y1 > height_px + _TOLERANCE_PX:
        return "box_outside"
    clipped = np.clip(box, 0, (width_px, height_px, width_px, height_px))
    return "" if clipped[2] > clipped[0] and clipped[3] > clipped[1] else "empty_box"
