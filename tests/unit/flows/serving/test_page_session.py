from pathlib import Path

import numpy as np
import pytest

from flows.serving.errors import ApiError
from flows.serving.page_session import (
    Slot,
    box_of,
    default_boxes,
    page_job,
    relative_box,
    subject_settings,
)
from flows.serving.service import encode_mask

SIZE = (200, 100)


@pytest.fixture
def slot(tmp_path: Path) -> Slot:
    picture = tmp_path / "my_red-cat.png"
    picture.write_bytes(b"picture")
    return Slot(picture, SIZE, encode_mask(np.ones((2, 2), bool)))


def test_the_label_comes_from_the_file(slot: Slot) -> None:
    assert slot.suggested_label == "my red cat"
    assert Slot(Path("_.png"), SIZE).suggested_label == "subject"


def test_boxes_stand_side_by_side_and_are_found_again(slot: Slot) -> None:
    boxes = default_boxes((slot, None, slot), ["cat", "", "dog"], SIZE)
    assert [box["label"] for box in boxes] == ["1 cat", "3 dog"]
    first, third = box_of(0, boxes, SIZE), box_of(2, boxes, SIZE)
    assert first is not None
    assert third is not None
    assert 0 < first[0] < first[2] < third[0] < third[2] < 1
    assert box_of(1, boxes, SIZE) is None


def test_boxes_are_shares_inside_the_picture() -> None:
    assert relative_box({"xmin": 150, "xmax": -20, "ymin": 25, "ymax": 400}, SIZE) == (0, 0.25, 0.75, 1)


def test_a_click_is_no_box() -> None:
    assert relative_box({"xmin": 50, "xmax": 52, "ymin": 20, "ymax": 80}, SIZE) is None


def test_subjects_need_a_label_and_a_cutout(slot: Slot) -> None:
    (subject,) = subject_settings((None, slot), ["", "cat"], [1, 0.5], [None, (0, 0, 1, 1)])
    assert (subject["label"], subject["strength"], subject["box"]) == ("cat", 0.5, (0, 0, 1, 1))
    with pytest.raises(ApiError, match="Subject 1 has no label"):
        subject_settings((slot,), [" "], [1], [None])
    with pytest.raises(ApiError, match="Subject 1 is not cut out"):
        subject_settings((Slot(slot.picture, SIZE),), ["cat"], [1], [None])


def test_empty_fields_of_the_page_are_defaults() -> None:
    job = page_job([], {"prompt": None, "negative_prompt": None, "interpolation": 0, "steps": 3})
    assert (job.prompt, job.negative_prompt, job.interpolation, job.steps) == ("", "", None, 3)
    with pytest.raises(ApiError, match="steps"):
        page_job([], {"prompt": "x", "negative_prompt": "", "interpolation": 0.5, "steps": 0})
