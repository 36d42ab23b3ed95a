import pytest

from evaluation.scores.boxes import aspect_change, box_iou

LEFT_HALF, MIDDLE = (0.0, 0.0, 0.5, 1.0), (0.25, 0.0, 0.75, 1.0)


def test_overlap_of_boxes() -> None:
    assert box_iou(LEFT_HALF, LEFT_HALF) == 1
    assert box_iou(LEFT_HALF, MIDDLE) == pytest.approx(0.25 / 0.75)
    assert box_iou(LEFT_HALF, (0.5, 0.0, 1.0, 1.0)) == 0
    assert box_iou(LEFT_HALF, (0.6, 0.0, 1.0, 1.0)) == 0


def test_a_subject_that_was_not_found_has_no_overlap() -> None:
    assert box_iou(LEFT_HALF, None) == 0


def test_change_of_the_aspect_ratio() -> None:
    assert aspect_change(LEFT_HALF, (0.0, 0.0, 0.5, 1.0)) == 0
    assert aspect_change(LEFT_HALF, (0.0, 0.0, 1.0, 1.0)) == pytest.approx(1)
    assert aspect_change((0.0, 0.0, 1.0, 1.0), LEFT_HALF) == pytest.approx(1)
    with pytest.raises(ValueError, match="no area"):
        aspect_change(LEFT_HALF, (0.5, 0.5, 0.5, 0.5))
