"""Masks as COCO run lengths, cropped to the mask's bounds: about a kilobyte, and fast to decode."""

import numpy as np
from numpy.typing import NDArray
from pycocotools import mask as coco

from labeling.sdd.schema import Mask


def encode(mask: NDArray[np.bool_]) -> Mask:
    """`mask` [H, W], cropped to its bounds.

    Raises:
        ValueError: the mask is empty; an entity without a pixel has no place in the dataset.
    """
    ys, xs = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    if not len(ys):
        raise ValueError("an empty mask has no bounds")
    x0, y0 = int(xs[0]), int(ys[0])
    crop = mask[y0 : ys[-1] + 1, x0 : xs[-1] + 1]
    counts: bytes = coco.encode(np.asfortranarray(crop, dtype=np.uint8))["counts"]
    return Mask(counts=counts, x0=x0, y0=y0, width_px=crop.shape[1], height_px=crop.shape[0])


def decode_crop(mask: Mask) -> NDArray[np.bool_]:
    """The mask within its bounds, [mask.height_px, mask.width_px]."""
    crop: NDArray[np.uint8] = coco.decode({"size": [mask.height_px, mask.width_px], "counts": mask.counts})
    return crop.view(np.bool_)


def decode(mask: Mask, height_px: int, width_px: int) -> NDArray[np.bool_]:
    """The mask in its image, [height_px, width_px].

    Raises:
        ValueError: the mask reaches over the image's edge.
    """
    y1, x1 = mask.y0 + mask.height_px, mask.x0 + mask.width_px
    if mask.y0 < 0 or mask.x0 < 0 or y1 > height_px or x1 > width_px:
        raise ValueError(f"the mask covers rows {mask.y0}..{y1} and columns {mask.x0}..{x1} of {height_px}x{width_px}")
    full = np.zeros((height_px, width_px), bool)
    full[mask.y0 : y1, mask.x0 : x1] = decode_crop(mask)
    return full


def area_px(mask: Mask) -> int:
    """The number of pixels inside, without decoding."""
    return int(coco.area({"size": [mask.height_px, mask.width_px], "counts": mask.counts}))
