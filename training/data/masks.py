"""Resizes masks for training: to shares of cells, straight from their run lengths, or to pixels of the crop."""

from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float
from numpy.typing import NDArray

from labeling.sdd.masks import decode_crop, run_lengths
from labeling.sdd.schema import Mask
from training.data.errors import PoisonedRow
from training.data.placement import Square


class Spans(NamedTuple):
    """A mask as vertical spans in the order of their columns, in pixels of the image."""

    columns: NDArray[np.int64]
    starts: NDArray[np.int64]
    ends: NDArray[np.int64]


def spans(mask: Mask) -> Spans:
    """Return the runs inside the mask, split at the ends of columns.

    Raises:
        PoisonedRow: the mask is empty, or its run lengths do not add up to its size.
    """
    ends = _run_ends(mask)
    starts, ends = ends[:-1:2], ends[1::2]
    if not (is_inside := starts < ends).any():
        raise PoisonedRow("empty_mask", f"a mask of {mask.width_px}x{mask.height_px} is empty")
    starts, ends = starts[is_inside], ends[is_inside]
    first, last = starts // mask.height_px, (ends - 1) // mask.height_px
    pieces = last - first + 1
    columns = first.repeat(pieces) + np.arange(pieces.sum()) - (pieces.cumsum() - pieces).repeat(pieces)
    tops = columns * mask.height_px
    starts = np.maximum(starts.repeat(pieces) - tops, 0)
    ends = np.minimum(ends.repeat(pieces) - tops, mask.height_px)
    return Spans(columns + mask.x0, starts + mask.y0, ends + mask.y0)


def cell_shares(inside: Spans, square: Square, cells: int) -> Float[np.ndarray, "cells cells"]:
    """Return the share of each cell of a square that the mask covers, 0 to 1, as a resize by area gives it.

    Args:
        square: square of the image; its cells need not start at whole pixels.
        cells: number of cells in a row and in a column.
    """
    size = square.side / cells
    x, y = (start + size * np.arange(cells + 1) for start in (square.left, square.top))
    starts, ends = inside.starts.astype(np.float64), inside.ends.astype(np.float64)
    top, bottom = max(np.searchsorted(y, starts.min(), "right") - 1, 0), min(np.searchsorted(y, ends.max()), cells)
    before = np.zeros((bottom - top, len(inside.columns) + 1))
    edges = np.minimum(np.maximum(y[top : bottom + 1, None], starts), ends)
    np.diff(edges, axis=0).cumsum(axis=1, out=before[:, 1:])
    column = np.floor(x).astype(np.int64)
    left, right = (np.searchsorted(inside.columns, column, side) for side in ("left", "right"))
    covered = before[:, left] + (x - column) * (before[:, right] - before[:, left])
    shares = np.zeros((cells, cells), np.float32)  # rows above and below the mask stay zero
    shares[top:bottom] = np.diff(covered, axis=1) / size**2
    return shares


def pixel_mask(mask: Mask, square: Square, pixels: int) -> Bool[np.ndarray, "pixels pixels"]:
    """Return whether the pixel of the image at the centre of each pixel of the crop is in the mask.

    Args:
        square: the crop, in pixels of the image.
        pixels: number of pixels in a row and in a column of the crop.

    Raises:
        PoisonedRow: the mask is empty, or its run lengths do not add up to its size.
    """
    spans(mask)  # refuses masks that cannot be decoded
    middles = (np.arange(pixels) + 0.5) * square.side / pixels
    y = np.floor(square.top + middles).astype(np.int64) - mask.y0
    x = np.floor(square.left + middles).astype(np.int64) - mask.x0
    rows, columns = (y >= 0) & (y < mask.height_px), (x >= 0) & (x < mask.width_px)
    resized = np.zeros((pixels, pixels), bool)
    resized[np.ix_(rows, columns)] = decode_crop(mask)[np.ix_(y[rows], x[columns])]
    return resized


def _run_ends(mask: Mask) -> NDArray[np.int64]:
    """Return the ends of the runs, column by column, starting outside the mask; their number is even."""
    try:
        lengths = run_lengths(mask.counts).astype(np.int64)
    except IndexError:  # the counts are empty
        lengths = np.array([-1])
    ends = lengths.cumsum()
    if lengths.min() < 0 or ends[-1] != mask.width_px * mask.height_px:
        raise PoisonedRow(
            "corrupt_mask", f"the run lengths do not add up to a mask of {mask.width_px}x{mask.height_px}"
        )
    return ends if len(ends) % 2 == 0 else ends[:-1]
