"""Where subjects go: given, detected, random, and the choice between them."""

import itertools
import math
from collections.abc import Sequence

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from model.config import BoxEdges, LocationMarks, LocationMask
from model.inputs.boxes import box_masks, exact_box_masks
from model.inputs.layout import MAX_AREA, MIN_AREA, Layout, LayoutInput, Place, choose_places, parse_box
from model.networks.location import overlay_regions

SIDE = 16


def outline(box: tuple[int, int, int, int] = (20, 10, 60, 50), size: tuple[int, int] = (100, 80)) -> NDArray[np.bool_]:
    """A subject that fills `box` of a picture of (width, height) `size`."""
    x0, y0, x1, y1 = box
    mask = np.zeros(size[::-1], dtype=bool)
    mask[y0:y1, x0:x1] = True
    return mask


def place_all(
    inputs: Sequence[LayoutInput], layout: Layout | str, seed: int = 0, marks: LocationMask | str = LocationMask.MASK
) -> list[Place]:
    return choose_places(inputs, layout, (SIDE, SIDE), np.random.default_rng(seed), marks)


def area(box: tuple[float, float, float, float]) -> float:
    x0, y0, x1, y1 = box
    return (x1 - x0) * (y1 - y0)


def test_the_outline_is_fitted_into_a_given_box() -> None:
    """A subject of 40 x 20 pixels in a box of .5 x .5: as wide as the box, half as high, in its middle."""
    triangle = outline((20, 10, 60, 30))
    triangle[10:30, 20:60] = np.arange(40) <= 2 * np.arange(20)[:, None] + 1
    (place,) = place_all([LayoutInput("dog", triangle, box=(0.25, 0.5, 0.75, 1.0))], Layout.GIVEN)
    assert place.box == (0.25, 0.5, 0.75, 1.0)
    assert place.bounds == pytest.approx((0.25, 0.625, 0.75, 0.875))
    assert place.mask.shape == (SIDE, SIDE)
    assert place.mask.sum() == pytest.approx(SIDE * SIDE * triangle.sum() / 80**2)
    inside = place.mask[10:14, 4:12]
    assert inside.sum() == pytest.approx(place.mask.sum())
    assert inside[-1, 0] == 1
    assert inside[0, -1] == 0


@pytest.mark.parametrize("layout", [Layout.RANDOM, Layout.AUTO])
def test_the_outline_is_fitted_into_boxes_of_the_layout(layout: Layout) -> None:
    """A slim subject and a flat one."""
    found = place_all(
        [LayoutInput("cup", outline((5, 0, 15, 40))), LayoutInput("car", outline((0, 0, 60, 30)))], layout
    )
    for place, proportions in zip(found, (0.25, 2), strict=True):
        x0, y0, x1, y1 = place.bounds
        assert (x1 - x0) / (y1 - y0) == pytest.approx(proportions)
        assert place.mask.mean() == pytest.approx((x1 - x0) * (y1 - y0))
        assert place.box[0] <= x0
        assert place.box[1] <= y0
        assert x1 <= place.box[2]
        assert y1 <= place.box[3]


@given(
    box=st.tuples(*[st.floats(0, 1)] * 4).filter(lambda b: b[0] < b[2] and b[1] < b[3]),
    height=st.integers(1, 60),
    width=st.integers(1, 60),
)
@pytest.mark.filterwarnings("ignore:.*too small or too thin")
def test_any_outline_fits_into_any_box(box: tuple[float, float, float, float], height: int, width: int) -> None:
    (place,) = place_all([LayoutInput("dog", outline((3, 7, 3 + width, 7 + height)), box=box)], Layout.GIVEN)
    x0, y0, x1, y1 = place.bounds
    assert np.all(np.abs(np.clip(place.bounds, box[:2] * 2, box[2:] * 2) - place.bounds) < 1e-9)
    assert max((x1 - x0) / (box[2] - box[0]), (y1 - y0) / (box[3] - box[1])) == pytest.approx(1, abs=1e-6)
    assert (place.mask >= 0.5).any()
    assert place.mask.max() <= 1 + 1e-5


@pytest.mark.parametrize("marks", [LocationMask.BOX, "box"])
def test_a_box_is_filled_where_that_is_asked_for(marks: LocationMask | str) -> None:
    (place,) = place_all([LayoutInput("dog", outline(), box=(0.25, 0.5, 0.75, 1.0))], Layout.GIVEN, marks=marks)
    assert place.box == place.bounds == (0.25, 0.5, 0.75, 1.0)
    assert place.mask.sum() == SIDE * SIDE / 4
    assert place.mask[8:, 4:12].all()


@pytest.mark.parametrize("edges", BoxEdges)
@given(left=st.floats(0, 0.999), top=st.floats(0, 0.999), width=st.floats(1e-6, 1.0), height=st.floats(1e-6, 1.0))
@pytest.mark.filterwarnings("ignore:.*too small or too thin")
def test_any_box_marks_a_position_of_a_model_of_boxes(
    edges: BoxEdges, left: float, top: float, width: float, height: float
) -> None:
    box = (left, top, min(left + width, 1.0), min(top + height, 1.0))
    (place,) = place_all([LayoutInput("dog", outline(), box=box)], Layout.GIVEN, marks="box")
    assert box_masks(torch.tensor([[place.bounds]]), (SIDE, SIDE), edges, cell_px=8).any()


@pytest.mark.parametrize("marks", LocationMask)
@pytest.mark.parametrize(
    ("box", "nearest"),
    [
        ((0.52, 0.26, 0.53, 0.27), np.s_[4:5, 8:9]),
        ((0.99, 0.99, 1.0, 1.0), np.s_[15:16, 15:16]),
        ((0.13, 0.25, 0.135, 0.75), np.s_[4:12, 2:3]),
    ],
)
def test_a_box_between_the_positions_of_the_latent_marks_the_nearest(
    marks: LocationMask, box: tuple[float, float, float, float], nearest: tuple[slice, slice]
) -> None:
    x0, y0, x1, y1 = (round(1000 * edge) for edge in box)
    one = LayoutInput("dog", outline((0, 0, x1 - x0, y1 - y0), size=(600, 600)), box=box)
    with pytest.warns(UserWarning, match="'dog' is too small or too thin at its place for the 16 x 16 positions"):
        (place,) = place_all([one], Layout.GIVEN, marks=marks)
    assert place.box == box
    expected = np.zeros((SIDE, SIDE))
    expected[nearest] = 1
    assert np.array_equal(place.mask, expected)
    boxes, masks = torch.tensor([[place.bounds]]), torch.from_numpy(place.mask)[None, None]
    regions = masks if marks is LocationMask.MASK else exact_box_masks(boxes, (SIDE, SIDE))
    l_m = overlay_regions(regions, torch.ones(1, 1, dtype=torch.bool), (SIDE, SIDE), LocationMarks.SUBJECT)
    assert np.array_equal(l_m[0, 0].numpy(), expected)


def test_a_thin_mask_of_many_pixels_is_not_lost_between_the_positions() -> None:
    """Eight rows and 1,000 columns: less than one pixel a position downwards, many across."""
    line = np.zeros((8, 1000), dtype=bool)
    line[3] = True
    (place,) = place_all([LayoutInput("pen", outline(), mask=line)], Layout.GIVEN)
    assert place.mask[6:8] == pytest.approx(1)
    assert place.mask.sum() == pytest.approx(2 * SIDE)


def test_a_given_mask_determines_the_box() -> None:
    (place,) = place_all([LayoutInput("dog", outline(), mask=outline((0, 0, 50, 40)))], Layout.GIVEN)
    assert place.box == place.bounds == (0, 0, 0.5, 0.5)
    assert place.mask.mean() == pytest.approx(0.25)


def test_given_needs_a_box_or_a_mask() -> None:
    with pytest.raises(ValueError, match=r"'cat'.*layout 'auto'"):
        place_all([LayoutInput("dog", outline(), box=(0, 0, 1, 1)), LayoutInput("cat", outline())], Layout.GIVEN)


def test_detected_keeps_the_outline_in_its_proportions() -> None:
    """The picture is 100 x 80: in a square of 100, the subject moves down by 10."""
    (place,) = place_all([LayoutInput("dog", outline((20, 10, 60, 50)))], Layout.DETECTED)
    assert place.box == pytest.approx((0.2, 0.2, 0.6, 0.6))
    assert place.mask.mean() == pytest.approx(0.16)


@given(count=st.integers(1, 4), seed=st.integers(0, 1000))
def test_random_boxes_lie_beside_each_other(count: int, seed: int) -> None:
    found = place_all([LayoutInput("dog", outline())] * count, Layout.RANDOM, seed)
    assert all(0 <= x0 < x1 <= 1 and 0 <= y0 < y1 <= 1 for x0, y0, x1, y1 in (place.box for place in found))
    assert all(left.box[2] <= right.box[0] for left, right in itertools.pairwise(found))
    assert all(place.mask.any() and MIN_AREA <= area(place.box) <= MAX_AREA for place in found)


def test_random_follows_its_seed() -> None:
    inputs = [LayoutInput("dog", outline())]
    assert place_all(inputs, Layout.RANDOM, 1)[0].box == place_all(inputs, Layout.RANDOM, 1)[0].box
    assert place_all(inputs, Layout.RANDOM, 1)[0].box != place_all(inputs, Layout.RANDOM, 2)[0].box


def test_auto_takes_what_is_given_and_places_the_others() -> None:
    given_one, other = place_all(
        [LayoutInput("dog", outline(), box=(0, 0, 0.5, 0.5)), LayoutInput("cat", outline())], Layout.AUTO
    )
    assert given_one.box == (0, 0, 0.5, 0.5)
    assert other.box[0] >= 0.5


def test_auto_detects_a_single_subject_of_a_known_size() -> None:
    (detected,) = place_all([LayoutInput("dog", outline((20, 10, 60, 50)))], Layout.AUTO)
    assert detected.box == pytest.approx((0.2, 0.2, 0.6, 0.6))


@pytest.mark.parametrize("size", [(100, 80), (40, 160), (3, 3)])
def test_auto_centres_a_tight_cut_out_in_its_proportions(size: tuple[int, int]) -> None:
    """Holds for any seed."""
    inputs = [LayoutInput("dog", outline((0, 0, *size), size))]
    (place,), (other,) = (place_all(inputs, Layout.AUTO, seed) for seed in (1, 2))
    assert place.bounds == other.bounds
    x0, y0, x1, y1 = place.bounds
    assert (x0 + x1, y0 + y1) == pytest.approx((1, 1))
    assert (x1 - x0) / (y1 - y0) == pytest.approx(size[0] / size[1])
    assert MIN_AREA <= area(place.bounds) <= MAX_AREA
    assert place.mask.mean() == pytest.approx(area(place.bounds))


@pytest.mark.parametrize("count", [2, 3, 4])
def test_auto_centres_several_from_left_to_right(count: int) -> None:
    found = place_all([LayoutInput("dog", outline((0, 0, 80, 80), (80, 80)))] * count, Layout.AUTO)
    assert all(left.bounds[2] < right.bounds[0] for left, right in itertools.pairwise(found))
    assert all(area(place.bounds) >= MIN_AREA and place.bounds[1] + place.bounds[3] == 1 for place in found)


@pytest.mark.parametrize("layout", Layout)
def test_a_layout_may_be_named(layout: Layout) -> None:
    inputs = [LayoutInput("dog", outline((20, 10, 60, 50)), box=(0, 0, 0.5, 0.5))]
    (by_name,), (by_member,) = place_all(inputs, layout.value, seed=3), place_all(inputs, layout, seed=3)
    assert (by_name.box, by_name.bounds) == (by_member.box, by_member.bounds)


def test_unknown_names_are_refused_with_the_known_ones() -> None:
    with pytest.raises(ValueError, match="layout='detect': choose one of 'given', 'detected'"):
        place_all([], "detect")
    with pytest.raises(ValueError, match="marks='outline': choose one of 'mask', 'box'"):
        place_all([], Layout.AUTO, marks="outline")


@pytest.mark.parametrize("box", [(0.5, 0.2, 0.5, 0.9), (0.6, 0.2, 0.5, 0.9), (0.1, 0.2, 1.5, 0.9), (10, 20, 30, 40)])
def test_a_box_outside_the_image_is_refused(box: tuple[float, float, float, float]) -> None:
    with pytest.raises(ValueError, match=r"box .* of 'dog'"):
        LayoutInput("dog", outline(), box=box)


@pytest.mark.parametrize("box", [(0.1, 0.2, 0.5), (), 0.5, "left", (0.1, 0.2, math.nan, 0.9), (None,) * 4])
def test_anything_but_four_numbers_is_refused(box: object) -> None:
    with pytest.raises(ValueError, match=r"box .* of 'dog' .* such as \(0\.1, 0\.3, 0\.5, 0\.9\)"):
        parse_box(box, "dog")


def test_empty_masks_are_refused() -> None:
    with pytest.raises(ValueError, match="'dog' is empty"):
        LayoutInput("dog", outline((0, 0, 0, 0)))
    with pytest.raises(ValueError, match="places 'dog'"):
        LayoutInput("dog", outline(), mask=outline((0, 0, 0, 0)))
