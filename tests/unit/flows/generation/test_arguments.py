"""Subjects as the command line takes them."""

from pathlib import Path
from typing import Any

import pytest

from flows.generation.arguments import split_given, subject_fields
from flows.generation.errors import InvalidJob

NOTHING: dict[str, Any] = {"subject": None, "box": None, "mask": None, "place": None, "strength": None}


def test_options_belong_to_subjects_in_their_order() -> None:
    fields = subject_fields(
        subject=["cat.png:cat", "a,b.png:red dog", "x:y.png:bird"],
        box=["-", "0,0,.5,1"],
        mask=["-", "m.png,n.png", "-"],
        place=["-", "-", "place.png"],
        strength=["0.5"],
    )
    assert fields == [
        {"label": "cat", "images": ["cat.png"], "strength": 0.5},
        {"label": "red dog", "images": ["a", "b.png"], "box": [0, 0, 0.5, 1], "masks": ["m.png", "n.png"]},
        {"label": "bird", "images": ["x:y.png"], "place": "place.png"},
    ]
    assert subject_fields(**NOTHING) == []


def test_a_file_with_a_comma_in_its_name_is_one_file(tmp_path: Path) -> None:
    path = tmp_path / "a,b.png"
    path.touch()
    assert subject_fields(**NOTHING | {"subject": [f"{path}:cat"]})[0]["images"] == [str(path)]
    assert split_given([f"{path}:cat", str(path), "c.png,d.png", "-", "x.png:dog"]) == [
        path,
        path,
        *map(Path, ["c.png", "d.png", "x.png"]),
    ]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"subject": ["cat.png"]}, r"--subject cat\.png: give FILE:LABEL"),
        ({"subject": [":cat"]}, "--subject :cat: give FILE:LABEL"),
        ({"subject": ["a:a"], "box": ["-", "0,0,1,1"]}, "--box is given 2 times for 1 subjects"),
        ({"mask": ["a.png"]}, "--mask is given 1 times for 0 subjects"),
        ({"subject": ["a:a"], "box": ["0,0,1"]}, "--box 0,0,1: give left,top,right,bottom"),
        ({"subject": ["a:a"], "box": ["0,0,1,x"]}, "--box 0,0,1,x: 'x' is no number"),
        ({"subject": ["a:a"], "strength": ["much"]}, "--strength much: 'much' is no number"),
    ],
)
def test_another_form_is_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidJob, match=message):
        subject_fields(**NOTHING | options)
