"""Masks reduced from their run lengths are the full-frame masks reduced by area."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn import functional as F

from labeling.sdd import masks
from labeling.sdd.schema import Mask
from training.data.errors import PoisonedRow
from training.data.masks import cell_shares, spans
from training.data.placement import Square


def blob(seed: int, height: int, width: int):
    """Pixels of a few overlapping ellipses, with a hole and some noise."""
    rng = np.random.default_rng(seed)
    yy, xx = np.mgrid[:height, :width]
    mask = np.zeros((height, width), bool)
    for _ in range(3):
        cy, cx = rng.uniform(0, height), rng.uniform(0, width)
        mask |= ((yy - cy) / rng.uniform(3, height / 2)) ** 2 + ((xx - cx) / rng.uniform(3, width / 2)) ** 2 < 1
    mask ^= rng.random(mask.shape) < 0.02
    mask[rng.integers(height), rng.integers(width)] = True
    return mask


def by_area(mask, square, cells):
    """The square of the full frame, each pixel made so many that cells begin at pixels, and averaged."""
    left, top, side = square
    full = mask[top : top + side, left : left + side].astype(np.float64)
    fine = full.repeat(cells, axis=0).repeat(cells, axis=1)
    return fine.reshape(cells, side, cells, side).mean(axis=(1, 3))


@given(st.integers(0, 10_000), st.integers(8, 70), st.integers(8, 70), st.integers(1, 16), st.data())
def test_shares_are_those_of_the_full_frame(seed, height, width, cells, data):
    mask = blob(seed, height, width)
    side = data.draw(st.integers(4, min(height, width)))
    square = Square(data.draw(st.integers(0, width - side)), data.draw(st.integers(0, height - side)), side)
    shares = cell_shares(spans(masks.encode(mask)), square, cells)
    assert shares.dtype == np.float32
    np.testing.assert_allclose(shares, by_area(mask, square, cells), atol=1e-6)


def test_the_model_reduces_further_as_it_would_the_full_frame():
    mask = blob(1, 1024, 1300)
    square = Square(200, 0, 1024)
    shares = torch.from_numpy(cell_shares(spans(masks.encode(mask)), square, 64))[None, None]
    full = torch.from_numpy(mask[:, 200:1224].astype(np.float32))[None, None]
    for side in (64, 32, 16, 8):
        torch.testing.assert_close(
            F.interpolate(shares, size=side, mode="area"),
            F.interpolate(full, size=side, mode="area"),
            atol=1e-6,
            rtol=0,
        )


def test_a_mask_that_fills_its_frame_is_one_run_and_one_everywhere():
    mask = masks.encode(np.ones((30, 40), bool))
    assert len(masks.run_lengths(mask.counts)) == 2
    assert (cell_shares(spans(mask), Square(5, 0, 30), 7) == 1).all()


BOX = {"x0": 3, "y0": 2, "width_px": 8, "height_px": 6}


@pytest.mark.parametrize(
    ("counts", "reason"),
    [
        (masks.encode(np.ones((5, 6), bool)).counts, "corrupt_mask"),
        (b"", "corrupt_mask"),
        (b"\xff\x00garbage", "corrupt_mask"),
        (b"nnnnn", "corrupt_mask"),
        (b"`1", "empty_mask"),
    ],
)
def test_what_is_no_mask_is_said_to_be_none(counts, reason):
    with pytest.raises(PoisonedRow) as poison:
        spans(Mask(counts=counts, **BOX))
    assert poison.value.reason == reason
