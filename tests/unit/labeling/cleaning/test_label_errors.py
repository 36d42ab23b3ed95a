"""Candidates against the boxes of a second detector."""

from dataclasses import replace

import pytest

from labeling.cleaning.label_errors import confirm, overlooked
from labeling.sdd.schema import Box, Detection
from tests.factories import CAT, DOG


def found(label: str, box: tuple[float, float, float, float], score: float = 0.8) -> Detection:
    x0, y0, x1, y1 = box
    return Detection(label=label, span_start=2, span_end=5, score=score, box=Box(x0=x0, y0=y0, x1=x1, y1=y1))


def test_the_nearest_box_of_the_label_confirms_a_candidate() -> None:
    boxes = [found("dog", (0, 0, 20, 10), 0.9), found("dog", (0, 0, 20, 16), 0.6), found("cat", (30, 0, 60, 20), 0.7)]
    confirmation = confirm(DOG, boxes)
    assert confirmation.confirmed_iou == pytest.approx(0.8)
    assert confirmation.confirmed_score == 0.6
    assert confirmation.label_quality == 1.0
    assert confirmation.mask_quality == pytest.approx(0.9), "the lowest sign is SAM's own estimate"


def test_a_box_of_another_label_makes_the_label_doubtful_by_its_score() -> None:
    confirmation = confirm(DOG, [found("cat", (0, 0, 20, 16), 0.5)])
    assert (confirmation.confirmed_iou, confirmation.confirmed_score) == (0.0, None)
    assert confirmation.label_quality == pytest.approx(1 - 0.8 * 0.5)


def test_a_candidate_without_a_mask_is_not_compared() -> None:
    confirmation = confirm(replace(DOG, segment=None), [found("dog", (0, 0, 20, 20))])
    assert (confirmation.confirmed_iou, confirmation.label_quality, confirmation.mask_quality) == (None, None, None)


def test_boxes_that_no_candidate_of_their_label_overlaps_are_overlooked() -> None:
    boxes = [
        found("dog", (0, 0, 20, 16), 0.9),
        found("dog", (40, 30, 60, 40), 0.5),
        found("cat", (0, 0, 20, 20), 0.7),
        found("cat", (22, 0, 62, 15), 0.6),
    ]
    assert [(box.label, box.score) for box in overlooked([DOG, CAT], boxes)] == [
        ("cat", 0.7),
        ("cat", 0.6),
        ("dog", 0.5),
    ]
