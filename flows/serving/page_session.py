"""What the page knows of one user: subjects in their slots, their places, and the images that were made."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

from flows.generation.job import GenerationJob
from flows.serving.errors import ApiError
from flows.serving.page_pictures import colour_of
from flows.serving.requests import Settings, make_job, source
from model.inputs.layout import RelativeBox

PixelBox: TypeAlias = Settings
"""Box of the box editor: xmin, ymin, xmax, ymax in pixels of its picture, label, color."""
QUICK = {"scheduler": "DPMSolverMultistep", "steps": 12}
"""Settings of a quick run."""
_MIN_SHARE = 0.02
"""Smallest side of a box that was drawn on purpose, as a share of the picture."""


@dataclass(frozen=True)
class Slot:
    """A subject of the page."""

    picture: Path
    """Uploaded file."""
    size: tuple[int, int]
    """Width and height of the picture in the box editor, in pixels."""
    mask: bytes | None = None
    """Cut-out as PNG, white inside the subject; None until the subject is cut out."""

    @property
    def suggested_label(self) -> str:
        """Label that the file's name suggests."""
        return " ".join(self.picture.stem.replace("_", " ").replace("-", " ").split()) or "subject"


Slots: TypeAlias = tuple[Slot | None, ...]
"""Slots of the page, some of them empty."""


@dataclass(frozen=True)
class MadeImage:
    """An image of the page's gallery."""

    file: Path
    """The PNG."""
    job: GenerationJob
    """Job that makes this image alone."""
    caption: str
    """Line under the image."""


def default_boxes(slots: Slots, labels: Sequence[str], size: tuple[int, int]) -> list[Settings]:
    """Return a box for each subject, side by side.

    Args:
        slots: the subjects.
        labels: label of each slot.
        size: width and height of the canvas in pixels.
    """
    filled = [number for number, slot in enumerate(slots) if slot is not None]
    return [
        _pixel_box(labels[number], number, ((turn + 0.06) / len(filled), 0.3, (turn + 0.94) / len(filled), 0.94), size)
        for turn, number in enumerate(filled)
    ]


def _pixel_box(label: str, number: int, box: RelativeBox, size: tuple[int, int]) -> Settings:
    sides = [round(side * size[axis % 2]) for axis, side in enumerate(box)]
    return {
        **dict(zip(("xmin", "ymin", "xmax", "ymax"), sides, strict=True)),
        "label": box_label(number, label),
        "color": colour_of(number),
    }


def box_label(number: int, label: str) -> str:
    """Return the label of a subject's box, by which it is found again."""
    return f"{number + 1} {label}"


def relative_box(box: PixelBox, size: tuple[int, int]) -> RelativeBox | None:
    """Return a box of the box editor as shares of its picture; None if it is too small to have been meant."""
    width, height = size
    x0, x1 = sorted(min(max(float(box[name]) / width, 0.0), 1.0) for name in ("xmin", "xmax"))
    y0, y1 = sorted(min(max(float(box[name]) / height, 0.0), 1.0) for name in ("ymin", "ymax"))
    return (x0, y0, x1, y1) if min(x1 - x0, y1 - y0) >= _MIN_SHARE else None


def box_of(number: int, boxes: Sequence[PixelBox], size: tuple[int, int]) -> RelativeBox | None:
    """Return the box of a slot's subject: the one whose label starts with the slot's number."""
    own = [box for box in boxes if str(box.get("label", "")).startswith(f"{number + 1} ")]
    return relative_box(own[-1], size) if own else None


def subject_settings(
    slots: Slots, labels: Sequence[str], strengths: Sequence[float], boxes: Sequence[RelativeBox | None]
) -> list[Settings]:
    """Return the subjects of a job.

    Raises:
        ApiError: a subject has no label or is not cut out.
    """
    subjects = []
    for number, slot in enumerate(slots):
        if slot is None:
            continue
        name = f"Subject {number + 1}"
        if not labels[number].strip():
            raise ApiError(f"{name} has no label: name it in one or a few words")
        if slot.mask is None:
            raise ApiError(f"{name} is not cut out: draw a box around it and press “Cut out”")
        subjects.append(
            {
                "label": labels[number],
                "images": [source(slot.picture.read_bytes(), name)],
                "masks": [source(slot.mask, f"the cut-out of {name}")],
                "box": boxes[number],
                "strength": strengths[number],
            }
        )
    return subjects


def page_job(subjects: list[Settings], settings: Settings) -> GenerationJob:
    """Return the job of the page's fields.

    Raises:
        ApiError: a field has a value that it does not take.
    """
    texts = {name: settings[name] or "" for name in ("prompt", "negative_prompt")}  # an empty field is None
    interpolation = settings["interpolation"] or None  # 0 stands for none, which needs no untrained base
    return make_job({**settings, **texts, "interpolation": interpolation, "subjects": subjects})


def problem(message: str | None) -> str:
    """Return a message as the status line shows it; empty if there is none."""
    return f"⚠️ {message}" if message else ""
