"""Jobs from the options of the command line: subjects, and their boxes and masks in the order of the subjects."""

from collections.abc import Callable, Sequence
from itertools import zip_longest
from pathlib import Path
from typing import Any, TypeVar

from flows.generation.errors import InvalidJob

T = TypeVar("T")
NONE = "-"
"""Value of an option for a subject that has none."""


def subject_fields(
    subject: Sequence[str] | None,
    box: Sequence[str] | None,
    mask: Sequence[str] | None,
    place: Sequence[str] | None,
    strength: Sequence[str] | None,
) -> list[dict[str, Any]]:
    """Return the subjects as fields of a job.

    Args:
        subject: FILE[,FILE…]:LABEL for each subject.
        box: x0,y0,x1,y1 or `-` for each subject, or for the first ones.
        mask: FILE[,FILE…] or `-`, likewise.
        place: FILE or `-`, likewise.
        strength: number or `-`, likewise.

    Raises:
        InvalidJob: an option has another form, or there are more values than subjects.
    """
    subjects = subject or []
    for option, values in (("box", box), ("mask", mask), ("place", place), ("strength", strength)):
        if len(values or []) > len(subjects):
            raise InvalidJob(
                f"--{option} is given {len(values or [])} times for {len(subjects)} subjects: give it once for each "
                f"--subject in the same order, or {NONE} for a subject without"
            )
    rows = zip_longest(subjects, box or [], mask or [], place or [], strength or [], fillvalue=NONE)
    return [_one_subject(*row) for row in rows]


def _one_subject(subject: str, box: str, mask: str, place: str, strength: str) -> dict[str, Any]:
    files, colon, label = subject.rpartition(":")
    if not colon or not files:
        raise InvalidJob(f"--subject {subject}: give FILE:LABEL, such as cat.png:cat")
    given = {
        "box": _optional(box, _numbers),
        "masks": _optional(mask, _split_files),
        "place": _optional(place, str),
        "strength": _optional(strength, lambda text: _number("strength", text)),
    }
    return {
        "label": label,
        "images": _split_files(files),
        **{name: value for name, value in given.items() if value is not None},
    }


def split_given(values: Sequence[str]) -> list[Path]:
    """Return the files of options whose labels, if any, do not matter."""
    files: list[str] = []
    for value in values:
        if value != NONE:
            files += _split_files(value if Path(value).exists() else value.rpartition(":")[0] or value)
    return [Path(file) for file in files]


def _split_files(files: str) -> list[str]:
    """Return the paths of a list with commas; a file whose own name has commas is taken as it is."""
    return [files] if Path(files).exists() else [file for file in files.split(",") if file]


def _optional(text: str, parse: Callable[[str], T]) -> T | None:
    return None if text == NONE else parse(text)


def _numbers(box: str) -> list[float]:
    sides = [_number("box", side, whole=box) for side in box.split(",")]
    if len(sides) != 4:
        raise InvalidJob(f"--box {box}: give left,top,right,bottom as shares of the image, such as 0.1,0.3,0.5,0.9")
    return sides


def _number(option: str, text: str, whole: str = "") -> float:
    try:
        return float(text)
    except ValueError:
        raise InvalidJob(f"--{option} {whole or text}: {text!r} is no number") from None
