"""Shares and means with their intervals, and the table of them."""

import json
from pathlib import Path

import numpy as np
import pytest

from infra.intervals import wilson_interval
from miniature.scoring.figures import (
    Figure,
    Table,
    bootstrap_interval,
    mean_by_image,
    share,
    share_by_image,
    write_json,
)


def test_intervals_hold_the_figure_and_narrow_with_the_count() -> None:
    low, high = wilson_interval(90, 100)
    assert (low, high) == pytest.approx((0.8256, 0.9448), abs=1e-3)
    assert wilson_interval(900, 1000)[0] > low
    assert wilson_interval(0, 0) == (0.0, 1.0)
    draws = np.random.default_rng(1).normal(0.8, 0.1, 400).tolist()
    low, high = bootstrap_interval([(value, 1) for value in draws])
    assert low < np.mean(draws) < high
    assert high - low == pytest.approx(2 * 1.96 * 0.1 / 20, rel=0.2)


def test_what_goes_wrong_together_counts_as_one() -> None:
    """50 images of 4 things, all right or all wrong: the interval is that of 50 and not of 200."""
    together = [(4, 4)] * 40 + [(0, 4)] * 10
    figure = share_by_image({}, "recall", together)
    assert (figure.value, figure.count) == (0.8, 200)
    assert figure.high - figure.low == pytest.approx(2 * 1.96 * 0.4 / 50**0.5, rel=0.15)
    means = mean_by_image({}, "iou", [[0.9] * 4] * 40 + [[0.4] * 4] * 10 + [[]])
    assert (means.value, means.count) == (pytest.approx(0.8), 200)
    assert means.high - means.low == pytest.approx(2 * 1.96 * 0.2 / 50**0.5, rel=0.15)


def test_where_nothing_goes_wrong_the_interval_is_wilsons() -> None:
    figure, alone = share_by_image({}, "recall", [(2, 2)] * 30), share({}, "recall", 60, 60)
    assert (figure.low, figure.high) == pytest.approx((alone.low, alone.high))
    assert share_by_image({}, "recall", [(0, 0)]) == share({}, "recall", 0, 0)


def test_a_share_of_nothing_is_0() -> None:
    assert share({}, "recall", 0, 0) == Figure({}, "recall", 0.0, 0.0, 1.0, 0)


FIGURE = Figure({"stage": "masks", "input": "true"}, "iou", 0.9123, 0.9, 0.92, 1234)


def test_the_table_has_a_line_for_each_figure() -> None:
    head, line = Table({"stage": 10, "input": 5}, name_width=6).text([FIGURE]).splitlines()
    assert line.split() == ["masks", "true", "iou", "0.912", "0.900", "to", "0.920", "1,234"]
    assert head.index("value") == line.index("0.912")


def test_the_same_as_json(tmp_path: Path) -> None:
    write_json([FIGURE], tmp_path / "new" / "figures.json")
    (record,) = json.loads((tmp_path / "new" / "figures.json").read_text())
    assert record["stage"] == "masks"
    assert (record["figure"], record["value"], record["of"]) == ("iou", 0.9123, 1234)
