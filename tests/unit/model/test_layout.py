"""Where subjects go: given, detected, random, and the choice between them."""

import itertools
from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from model.layout import MAX_AREA, MIN_AREA, Layout, Place, Wish, places

SIDE = 16


def outline(box: tuple[int, int, int, int] = (20, 10, 60, 50), size: tuple[int, int] = (100, 80)) -> NDArray[np.bool_]:
    """A subject that fills `box` of a picture of (width, height) `size`."""
    x0, y0, x1, y1 = box
    mask = np.zeros(size[::-1], dtype=bool)
    mask[y0:y1, x0:x1] = True
    return mask


def placed(wishes: Sequence[Wish], layout: Layout, seed: int = 0) -> list[Place]:
    return places(wishes, layout, SIDE, np.random.default_rng(seed))


def area(place: Place) -> float:
    x0, y0, x1, y1 = place.box
    return (x1 - x0) * (y1 - y0)


def test_a_given_box_is_filled() -> None:
    (place,) = placed([Wish("dog", outline(), box=(0.25, 0.5, 0.75, 1.0))], Layout.GIVEN)
    assert place.box == (0.25, 0.5, 0.75, 1.0)
    assert place.mask.shape == (SIDE, SIDE)
    assert place.mask.sum() == SIDE * SIDE / 4
    assert place.mask[8:, 4:12].all()


def test_a_given_mask_brings_its_box() -> None:
    (place,) = placed([Wish("dog", outline(), mask=outline((0, 0, 50, 40)))], Layout.GIVEN)
    assert place.box == (0, 0, 0.5, 0.5)
    assert place.mask.mean() == pytest.approx(0.25)


def test_given_wants_a_box_or_a_mask() -> None:
    with pytest.raises(ValueError, match=r"'cat'.*layout 'auto'"):
        placed([Wish("dog", outline(), box=(0, 0, 1, 1)), Wish("cat", outline())], Layout.GIVEN)


def test_detected_keeps_the_outline_in_its_proportions() -> None:
    """The picture is 100 x 80: in a square of 100, the subject moves down by 10."""
    (place,) = placed([Wish("dog", outline((20, 10, 60, 50)))], Layout.DETECTED)
    assert place.box == pytest.approx((0.2, 0.2, 0.6, 0.6))
    assert place.mask.mean() == pytest.approx(0.16)


@given(count=st.integers(1, 4), seed=st.integers(0, 1000))
def test_random_boxes_lie_beside_each_other(count: int, seed: int) -> None:
    found = placed([Wish("dog", outline())] * count, Layout.RANDOM, seed)
    assert all(0 <= x0 < x1 <= 1 and 0 <= y0 < y1 <= 1 for x0, y0, x1, y1 in (place.box for place in found))
    assert all(left.box[2] <= right.box[0] for left, right in itertools.pairwise(found))
    assert all(place.mask.any() and MIN_AREA <= area(place) <= MAX_AREA for place in found)


def test_random_follows_its_seed() -> None:
    wishes = [Wish("dog", outline())]
    assert placed(wishes, Layout.RANDOM, 1)[0].box == placed(wishes, Layout.RANDOM, 1)[0].box
    assert placed(wishes, Layout.RANDOM, 1)[0].box != placed(wishes, Layout.RANDOM, 2)[0].box


def test_auto_takes_what_is_given_and_places_the_others() -> None:
    given_one, other = placed([Wish("dog", outline(), box=(0, 0, 0.5, 0.5)), Wish("cat", outline())], Layout.AUTO)
    assert given_one.box == (0, 0, 0.5, 0.5)
    assert other.box[0] >= 0.5


def test_auto_detects_a_single_subject_unless_it_fills_its_picture() -> None:
    (detected,) = placed([Wish("dog", outline((20, 10, 60, 50)))], Layout.AUTO)
    assert detected.box == pytest.approx((0.2, 0.2, 0.6, 0.6))
    (tight,) = placed([Wish("dog", outline((0, 0, 100, 80)))], Layout.AUTO)
    assert area(tight) <= MAX_AREA


@pytest.mark.parametrize("box", [(0.5, 0.2, 0.5, 0.9), (0.6, 0.2, 0.5, 0.9), (0.1, 0.2, 1.5, 0.9), (10, 20, 30, 40)])
def test_a_box_that_is_none_is_refused(box: tuple[float, float, float, float]) -> None:
    with pytest.raises(ValueError, match=r"box .* of 'dog'"):
        Wish("dog", outline(), box=box)


def test_empty_masks_are_refused() -> None:
    with pytest.raises(ValueError, match="'dog' is empty"):
        Wish("dog", outline((0, 0, 0, 0)))
    with pytest.raises(ValueError, match="places 'dog'"):
        Wish("dog", outline(), mask=outline((0, 0, 0, 0)))
