"""Cropped run lengths say what full-frame ones say."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst
from pycocotools import mask as coco

from labeling.sdd import masks
from labeling.sdd.schema import Mask

some_masks = npst.arrays(bool, npst.array_shapes(min_dims=2, max_dims=2, max_side=24)).filter(np.any)


def disc(side=101, radius=30):
    y, x = np.ogrid[:side, :side]
    return (x - side // 2) ** 2 + (y - side // 2) ** 2 <= radius**2


@given(some_masks)
def test_a_mask_comes_back_as_it_was(mask):
    again = masks.decode(masks.encode(mask), *mask.shape)
    assert again.dtype == bool
    np.testing.assert_array_equal(again, mask)


@given(some_masks)
def test_it_says_what_a_full_frame_encoding_says(mask):
    full = coco.encode(np.asfortranarray(mask, np.uint8))
    ours = masks.encode(mask)
    assert masks.area_px(ours) == coco.area(full) == mask.sum()
    np.testing.assert_array_equal(masks.decode(ours, *mask.shape), coco.decode(full).astype(bool))
    assert coco.toBbox(full).tolist() == [ours.x0, ours.y0, ours.width_px, ours.height_px]


@given(some_masks)
def test_its_bounds_are_tight(mask):
    crop = masks.decode_crop(masks.encode(mask))
    assert all(edge.any() for edge in (crop[0], crop[-1], crop[:, 0], crop[:, -1]))


@given(some_masks, st.integers(0, 5), st.integers(0, 5))
def test_what_lies_around_a_mask_costs_nothing(mask, above, left):
    inside = masks.encode(mask)
    moved = masks.encode(np.pad(mask, ((above, 2), (left, 3))))
    assert moved == replace(inside, x0=inside.x0 + left, y0=inside.y0 + above)


def test_the_area_is_counted_without_decoding(monkeypatch):
    encoded = masks.encode(disc())
    monkeypatch.delattr(coco, "decode")
    assert masks.area_px(encoded) == disc().sum()


def test_an_empty_mask_is_refused():
    with pytest.raises(ValueError, match="no bounds"):
        masks.encode(np.zeros((4, 4), bool))


@pytest.mark.parametrize(
    "moved", [{"x0": -1}, {"y0": -1}, {"x0": 41}, {"y0": 41}], ids=["left", "above", "right", "below"]
)
def test_a_mask_over_the_edge_is_refused(moved):
    encoded: Mask = masks.encode(disc())
    masks.decode(replace(encoded, x0=40, y0=40), 101, 101)
    with pytest.raises(ValueError, match="of 101x101"):
        masks.decode(replace(encoded, **moved), 101, 101)


@given(st.integers(1, 40), st.integers(1, 40), st.integers(0, 2**32 - 1), st.floats(0.0, 1.0))
def test_runs_are_unpacked_as_pycocotools_does(height, width, seed, share):
    """Frames of noise have short runs; repeated they have runs of several characters, growing and shrinking."""
    noise = np.random.default_rng(seed).random((height, width)) < share
    for mask in (noise, np.kron(noise, np.ones((97, 31), bool))):
        counts = coco.encode(np.asfortranarray(mask, dtype=np.uint8))["counts"]
        found = masks.decode_crop(Mask(counts=counts, x0=0, y0=0, width_px=mask.shape[1], height_px=mask.shape[0]))
        assert (found == mask).all()
