"""Unusual and bad input on the page, at the level of its event handlers: handled, or explained in the status line."""

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gradio as gr
import numpy as np
import pytest
from PIL import Image

from flows.generation.generator import Generator
from flows.serving.page import make_components
from flows.serving.page_components import Updates
from flows.serving.page_events import PageEvents
from flows.serving.page_session import Slot
from tests.pictures import huge_png, picture
from tests.serving import TAXI, as_bytes, make_service
from tests.shipped_model import MAX_SUBJECTS

EMPTY = (None,) * MAX_SUBJECTS
ALL = {"xmin": 0, "ymin": 0, "xmax": 4000, "ymax": 4000}
"""A box around everything, beyond the edges of every picture."""


@pytest.fixture(scope="module")
def events() -> Iterator[PageEvents]:
    """The handlers of a page."""
    service = make_service(Generator())
    with gr.Blocks():
        yield PageEvents(service, make_components(service))
    service.queue.close()


def status(events: PageEvents, updates: Updates) -> str:
    text = str(updates[events.components.result.status])
    assert "the server failed" not in text
    return text


def upload(events: PageEvents, *files: Path) -> tuple[tuple[Slot | None, ...], str]:
    """The subjects after an upload, and the status."""
    updates = asyncio.run(events.subjects.add([str(file) for file in files], EMPTY, *[""] * MAX_SUBJECTS))
    return updates[events.components.subjects], status(events, updates)


def generate(events: PageEvents, slots: tuple[Slot | None, ...] = EMPTY, **settings: Any) -> tuple[Updates, str]:
    """The last updates of a run, and the status."""
    page = events.components
    boxes = settings.pop("boxes", [])
    fields = {"prompt": "a vehicle", "steps": 1, **settings}
    values: Updates = {part: fields.get(name, part.value) for name, part in page.settings.fields.items()}
    for slot in page.slots:
        values |= {slot.label: "vehicle", slot.strength: 1}
    values |= {page.settings.random: False, page.use_boxes: True, page.canvas: {"boxes": boxes}}
    values |= {page.subjects: slots, page.made: ()}

    async def run() -> Updates:
        return [updates async for updates in events.runs.generate(values, gr.Request(session_hash="me"))][-1]

    updates = asyncio.run(run())
    return updates, status(events, updates)


BAD_FILES = {
    "nothing in it.png": (as_bytes(Image.new("RGBA", (32, 32))), "transparent everywhere"),
    "200 megapixels.png": (huge_png(14_143), "scale it down"),
    "text.png": (b"this is text", "give a JPEG, PNG"),
    "half a file.png": (TAXI.read_bytes()[:900], "copy or download it again"),
    "empty.png": (b"", "give a JPEG, PNG"),
}


@pytest.mark.parametrize("name", BAD_FILES)
def test_a_bad_file_is_named_with_the_cure(events: PageEvents, tmp_path: Path, name: str) -> None:
    content, cure = BAD_FILES[name]
    (tmp_path / name).write_bytes(content)
    slots, text = upload(events, tmp_path / name)
    assert name in text
    assert cure in text
    if any(slots):  # it can be shown, but not cut out
        assert "Subject 1 is not cut out" in generate(events, slots)[1]


def taxi_on_grey() -> Image.Image:
    """A picture in which any segmenter of the miniature world marks something."""
    taxi = Image.open(TAXI).convert("RGBA")
    background = Image.new("RGBA", taxi.size, "dimgray")
    background.alpha_composite(taxi)
    return background.convert("RGB")


UNUSUAL_FILES = {
    "cmyk.jpg": as_bytes(picture("RGB").convert("CMYK"), "JPEG"),
    "16 bits.png": as_bytes(Image.fromarray(np.asarray(taxi_on_grey().convert("L")).astype(np.uint16) * 257), "PNG"),
    "animated.gif": as_bytes(picture("RGB"), "GIF", save_all=True, append_images=[Image.new("RGB", (40, 40))]),
}


@pytest.mark.parametrize("name", UNUSUAL_FILES)
def test_an_unusual_file_is_used_after_a_box_was_drawn(events: PageEvents, tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(UNUSUAL_FILES[name])
    slots, text = upload(events, tmp_path / name)
    if slots[0].mask is None:
        assert f"{name}: the detector found no" in text
        updates = asyncio.run(events.subjects.cutter_of(0)(slots, {"boxes": [ALL]}, "thing"))
        assert status(events, updates) == ""
        slots = updates[events.components.subjects]
    assert generate(events, slots)[1] == "1 image done"


def test_a_picture_of_one_pixel_is_not_cut_out_and_this_is_explained(events: PageEvents, tmp_path: Path) -> None:
    Image.new("RGB", (1, 1), "white").save(tmp_path / "opaque.png")  # nothing stands out in it
    slots, text = upload(events, tmp_path / "opaque.png")
    assert "opaque.png: the detector found no 'opaque'" in text
    updates = asyncio.run(events.subjects.cutter_of(0)(slots, {"boxes": [ALL]}, "thing"))
    assert "opaque.png: SAM marked no pixel in the box 0,0,1,1" in status(events, updates)
    assert "Subject 1 is not cut out" in generate(events, slots)[1]


def test_more_pictures_than_the_model_takes_are_refused(events: PageEvents) -> None:
    slots, text = upload(events, *[TAXI] * 9)
    assert None not in slots
    assert f"this model takes {MAX_SUBJECTS} subjects: remove one first" in text


def test_prompts_may_be_empty_or_long(events: PageEvents) -> None:
    assert generate(events, prompt=None)[1] == "1 image done"
    assert "characters were cut" in generate(events, prompt="a dog " * 1667)[1]
    assert "prompt has 40,000 characters, but this server takes 32,000" in generate(events, prompt="x" * 40_000)[1]


@pytest.mark.parametrize("field", ["steps", "seed", "n", "text_guidance", "image_guidance", "scheduler"])
def test_a_field_with_a_bad_value_is_named(events: PageEvents, field: str) -> None:
    assert field in generate(events, **{field: "Nope"})[1]


@pytest.mark.parametrize(
    "box",
    [
        {"xmin": 5000, "ymin": 5000, "xmax": 6000, "ymax": 6000},
        {"xmin": -10, "ymin": -10, "xmax": 100, "ymax": 9999},
        {"xmin": 3, "ymin": 3, "xmax": 3, "ymax": 3},
    ],
    ids=["outside", "across the edge", "a click"],
)
def test_a_box_outside_is_clipped_or_left_out(events: PageEvents, box: dict[str, int]) -> None:
    slots, _ = upload(events, TAXI)
    updates, text = generate(events, slots, boxes=[{**box, "label": "1 vehicle"}])
    assert text == "1 image done"
    (made,) = updates[events.components.made]
    (subject,) = made.job.subjects
    assert subject.box in (None, (0, 0, 100 / 384, 1))


def test_cancel_and_choose_do_nothing_on_an_empty_page(events: PageEvents) -> None:
    assert events.runs.cancel(gr.Request(session_hash="nobody")) == "Nothing is running"
    assert asyncio.run(events.subjects.cutter_of(0)(EMPTY, None, "cat")) == {events.components.result.status: ""}
