"""A job is checked when it is parsed; a message names the field, the value and the cure."""

import base64
import json
from typing import Any

import pytest

from flows.generation.errors import InvalidJob
from flows.generation.job import GenerationJob, ImageSource, parse_job, parse_json

CAT = {"label": "cat", "images": "cat.png"}


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"stepz": 3}, "stepz: Extra inputs"),
        ({"steps": 0}, "steps: .*got 0"),
        ({"text_guidance": float("nan")}, "text_guidance: .*finite.*got nan"),
        ({"image_guidance": -1}, "image_guidance: .*got -1"),
        ({"interpolation": 2}, "interpolation.alpha: .*got 2"),
        ({"layout": "left"}, "layout: .*'auto'.*got 'left'"),
        ({"n": 0}, "n: .*got 0"),
        ({"n": 2, "seed": 2**63 - 1}, "last seed must be below"),
        ({"width": 100_000}, "width: .*4096"),
        ({"subjects": [{"images": "cat.png"}]}, "subjects.0.label: Field required"),
        ({"subjects": [{"label": " ", "images": "cat.png"}]}, "label is blank"),
        ({"subjects": [{"label": "cat", "images": []}]}, "subjects.0.images: .*at least 1"),
        ({"subjects": [CAT | {"masks": ["a.png", "b.png"]}]}, "1 pictures and 2 masks"),
        ({"subjects": [CAT | {"box": [0, 0, 2, 1]}]}, "subjects.0.box.2: .*got 2"),
        ({"subjects": [CAT | {"box": [0.5, 0, 0.5, 1]}]}, "the box .* of 'cat' does not lie in the image"),
        ({"subjects": [CAT | {"strength": "inf"}]}, "subjects.0.strength: .*finite"),
        ({"subjects": [{"label": "cat", "images": {"data": "%"}}]}, "data: is not base64"),
        ({"subjects": [{"label": "cat", "images": {}}]}, "needs a file, or data"),
        ({"photo": {"image": "room.jpg", "feather_px": -1}}, "photo.feather_px: .*got -1"),
    ],
)
def test_a_bad_field_is_named_with_its_value(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidJob, match=rf"^jobs.jsonl:3: .*{message}"):
        parse_job({"prompt": "a cat"} | fields, "jobs.jsonl:3")


@pytest.mark.parametrize("text", ["", "{", "[1]", '"a"', "[" * 100_000, b"\xff"])
def test_a_line_that_is_no_object_is_refused(text: str | bytes) -> None:
    with pytest.raises(InvalidJob, match=r"^jobs.jsonl:3: .*give one"):
        parse_json(text, "jobs.jsonl:3")


def test_a_job_survives_json() -> None:
    source = ImageSource(file="cat.png", data=b"\xff\xfe+/", sha256="0" * 64)
    subject = CAT | {"images": [source, "side.png"], "masks": ["m.png", "n.png"], "place": "place.png"}
    photo = {"image": "room.jpg", "region": "region.png", "feather_px": 3}
    job = parse_job({"prompt": "ä cat", "subjects": [subject], "photo": photo, "interpolation": 0.4}, "job")
    text = job.model_dump_json()
    assert base64.b64encode(b"\xff\xfe+/").decode() in text
    assert GenerationJob.model_validate_json(text) == job
    assert parse_json(text, "job") == job
    assert parse_json(json.dumps(json.loads(text)), "job") == job


def test_every_source_of_a_job_is_replaced() -> None:
    subject = CAT | {"masks": "mask.png", "place": "place.png"}
    job = parse_job({"prompt": "", "subjects": [subject], "photo": {"image": "i.png", "region": "r.png"}}, "job")
    seen: list[str | None] = []

    def replace(source: ImageSource) -> ImageSource:
        seen.append(source.file)
        return ImageSource(file="new.png")

    replaced = job.map_sources(replace)
    assert seen == ["cat.png", "mask.png", "place.png", "i.png", "r.png"]
    assert replaced.model_dump_json().count('"new.png"') == 5
    assert set(seen) & set(replaced.model_dump_json().split('"')) == set()


def test_metadata_name_a_file_without_its_folder() -> None:
    assert ImageSource(file="/home/me/secret/cat.png", data=b"1").without_data() == ImageSource(file="cat.png")
    assert ImageSource(file=r"C:\me\cat.png").without_data().file == "cat.png"
