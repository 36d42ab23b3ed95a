"""Cavities of masks, against loops over their pixels."""

import numpy as np
import pytest
from numpy.typing import NDArray

from model.inputs.cavities import fill_cavities, fill_holes

Mask = NDArray[np.bool_]


def parse_mask(rows: str) -> Mask:
    return np.array([[letter == "#" for letter in row] for row in rows.split()])


def blob(seed: int) -> Mask:
    rng = np.random.default_rng(seed)
    yy, xx = np.mgrid[:24, :20]
    y, x = rng.uniform(6, 18, 2)
    return (np.hypot(yy - y, xx - x) < rng.uniform(3, 9)) & (rng.random((24, 20)) < 0.8)


def between(mask: Mask, y: int, x: int) -> bool:
    """Mask at or before the pixel and mask after it, in its row and in its column."""
    return bool(mask[y, : x + 1].any() and mask[y, x + 1 :].any() and mask[: y + 1, x].any() and mask[y + 1 :, x].any())


@pytest.mark.parametrize("seed", range(5))
def test_rough_filling_is_the_released_codes(seed: int) -> None:
    mask = blob(seed)
    by_loops = np.array([[between(mask, y, x) for x in range(20)] for y in range(24)])
    assert np.array_equal(fill_cavities(mask), by_loops)
    assert np.array_equal(fill_cavities(np.stack([mask, mask.T[:20, :20].repeat(2, 0)[:24]]))[0], by_loops)


def test_only_holes_are_filled_at_sampling() -> None:
    mask = parse_mask("####### #.....# #.###.# #.###.# #.....# ####### ....... ##..##. .#...#. .#####.")
    whole = parse_mask("####### ####### ####### ####### ####### ####### ....... ##..##. .#...#. .#####.")
    assert np.array_equal(fill_holes(mask), whole)
    assert fill_cavities(mask)[8, 2:5].all()
