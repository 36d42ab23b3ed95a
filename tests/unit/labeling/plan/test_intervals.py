"""Intervals against textbook values and against known data."""

import math

import numpy as np
import pytest

from labeling.plan.intervals import Interval, Sums, share, student_t


@pytest.mark.parametrize(
    ("freedom", "t"), [(1, 12.706), (2, 4.303), (3, 3.182), (4, 2.776), (9, 2.262), (30, 2.042), (1000, 1.962)]
)
def test_student_t_is_that_of_the_tables(freedom, t):
    assert student_t(freedom) == pytest.approx(t, rel=0.01)


def test_parts_of_shards_and_images_are_told_apart():
    images = [10, 40, 20, 80, 30]
    found = Sums.of(images, [7 + 3 * x for x in images]).cost(2, Interval(1000, 0.0))
    assert found.value == pytest.approx(2 * 7 + 3 * 1000)
    assert found.half_width == pytest.approx(0.0, abs=1e-4)


def test_the_error_of_the_images_is_that_of_their_cost():
    images = [10, 40, 20, 80, 30]
    found = Sums.of(images, [7 + 3 * x for x in images]).cost(2, Interval(1000, 50.0))
    assert found.half_width == pytest.approx(150.0, abs=1e-4)


@pytest.mark.parametrize("costs", [[5, 5, 5], [0, 4, 11]], ids=["one size", "a part below 0"])
def test_otherwise_all_is_for_the_images(costs):
    images = [10, 10, 10] if costs == [5, 5, 5] else [10, 20, 30]
    assert Sums.of(images, costs).cost(7, Interval(60, 0.0)).value == pytest.approx(sum(costs) * 60 / sum(images))


def test_of_one_shard_the_spread_is_unknown_and_of_none_there_is_no_cost():
    assert Sums.of([10], [5]).cost(1, Interval(20, 0.0)) == Interval(10.0, math.inf)
    assert Interval(10.0, math.inf).times(0) == Interval(0.0, 0.0)
    assert Sums.of([0, 0], [0, 0]).cost(1, Interval(0, 0.0)) == Interval(0.0, 0.0)


@pytest.mark.parametrize("images", [[100] * 10, [50, 60, 10, 100, 20, 90, 30, 80, 40, 70]], ids=["equal", "different"])
def test_nineteen_of_twenty_intervals_hold_the_cost(images):
    rng = np.random.default_rng(0)
    held = 0
    for _ in range(1000):
        costs = [0.3 * x + rng.normal(0, 0.5) + 5 * (images[0] != 100) for x in images]
        found = Sums.of(images, costs).cost(20, Interval(2000, 0.0))
        held += abs(found.value - 600 - 100 * (images[0] != 100)) <= found.half_width
    assert held / 1000 == pytest.approx(0.95, abs=0.025)


def test_nineteen_of_twenty_intervals_hold_the_share():
    rng = np.random.default_rng(0)
    parts = rng.binomial(100, 0.9, 2000)
    held = [abs(found.value - 0.9) <= found.half_width + 0.01 for found in (share(part, 100) for part in parts)]
    assert np.mean(held) >= 0.93
