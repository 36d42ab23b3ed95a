"""A crop holds the subjects that were drawn for it, and as many are drawn as any crop can hold."""

from itertools import combinations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from training.data.placement import Offsets, crop_capacity, crop_offsets, draw_square, draw_subjects

edges = st.integers(0, 300)


def quarters(low, high):
    """Coordinates farther apart than the tolerance of `is_held`."""
    return st.integers(int(4 * low), int(4 * high)).map(lambda n: n / 4)


@st.composite
def pictures(draw):
    width, height = draw(st.integers(20, 300)), draw(st.integers(20, 300))
    boxes = []
    for _ in range(draw(st.integers(1, 5))):
        x0, y0 = draw(quarters(0, width - 2)), draw(quarters(0, height - 2))
        boxes.append((x0, y0, draw(quarters(x0 + 1, width)), draw(quarters(y0 + 1, height))))
    return np.array(boxes), width, height


def is_held(box, start, side, is_wide):
    low, high = (box[0], box[2]) if is_wide else (box[1], box[3])
    inside = low >= start - 1e-3 and high <= start + side + 1e-3
    filled = high - low > side and low <= start + 1e-3 and high >= start + side - 1e-3
    return inside or filled


@given(pictures())
def test_as_many_are_counted_as_any_crop_holds(picture):
    boxes, width, height = picture
    side, is_wide = min(width, height), width >= height
    edges = [edge for box in boxes for edge in ((box[0], box[2]) if is_wide else (box[1], box[3]))]
    starts = np.clip([*edges, *(edge - side for edge in edges)], 0, abs(width - height))
    best = max(sum(is_held(box, start, side, is_wide) for box in boxes) for start in starts)
    assert crop_capacity(boxes, np.array(width), np.array(height), at_most=9) == best
    assert crop_capacity(boxes, np.array(width), np.array(height), at_most=1) == 1


@given(pictures(), st.integers(0, 2**32), st.sampled_from([1, 2, 4, 8]))
def test_the_crop_holds_the_subjects_drawn(picture, seed, reduction):
    boxes, width, height = picture
    rng = np.random.default_rng(seed)
    ranges = crop_offsets(boxes, np.array(width), np.array(height))
    count = int(crop_capacity(boxes, np.array(width), np.array(height), at_most=3))
    chosen = draw_subjects(ranges, count, rng)
    assert len(set(chosen)) == count
    assert chosen == sorted(chosen)
    square = draw_square(Offsets(ranges.first[chosen], ranges.last[chosen]), width, height, reduction, rng)
    assert square.left >= 0
    assert square.top >= 0
    assert square.left + square.side <= width
    assert square.top + square.side <= height
    assert square.side == min(width, height) // reduction * reduction
    assert {square.left % reduction, square.top % reduction} == {0}
    for box in boxes[chosen]:
        is_wide = width >= height
        start, low, high = (square.left, box[0], box[2]) if is_wide else (square.top, box[1], box[3])
        longer_than_the_side = max(0.0, high - low - min(width, height))
        assert start - low < reduction + longer_than_the_side + 1e-3
        assert high - start - square.side < reduction + longer_than_the_side + 1e-3


def test_every_subject_and_every_place_is_drawn_at_some_time():
    boxes = np.array([(0, 0, 10, 10), (20, 0, 30, 10), (80, 0, 90, 10)])
    ranges = crop_offsets(boxes, np.array(100), np.array(40))
    rng = np.random.default_rng(0)
    assert {tuple(draw_subjects(ranges, 1, rng)) for _ in range(100)} == {(0,), (1,), (2,)}
    assert {tuple(draw_subjects(ranges, 2, rng)) for _ in range(100)} == {(0, 1)}
    alone = Offsets(ranges.first[1:2], ranges.last[1:2])
    assert {draw_square(alone, 100, 40, 1, rng).left for _ in range(500)} == set(range(21))


def test_rows_are_counted_together_as_alone():
    rng = np.random.default_rng(0)
    boxes = np.sort(rng.uniform(0, 100, (200, 6, 2, 2)), axis=2).reshape(200, 6, 4)
    boxes[rng.random((200, 6)) < 0.4] = np.nan
    width, height = rng.integers(100, 300, 200), rng.integers(100, 300, 200)
    alone = [crop_capacity(one, w, h, 4) for one, w, h in zip(boxes, width, height, strict=True)]
    assert crop_capacity(boxes, width, height, 4).tolist() == alone
    assert set(alone) > {1, 2, 3}


def test_subjects_of_which_no_two_fit_are_met_one_at_a_time():
    boxes = np.array([(10 * n, 0, 10 * n + 9, 9) for n in (0, 20, 40)])
    assert crop_capacity(boxes, np.array(500), np.array(50), 4) == 1
    ranges = crop_offsets(boxes, np.array(500), np.array(50))
    assert not any(
        (ranges.first[i] <= ranges.last[j]) and (ranges.first[j] <= ranges.last[i])
        for i, j in combinations(range(3), 2)
    )
