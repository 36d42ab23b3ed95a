"""Rows of Open Images' CSVs: boxes of single things, and names of classes."""

import csv
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from evaluation.benchmarks.benchmark import RelativeBox
from evaluation.errors import InvalidBenchmark

_SOURCE = "https://storage.googleapis.com/openimages/web/download_v7.html"
_SIDES = ("XMin", "YMin", "XMax", "YMax")
_COLUMNS = ("ImageID", "LabelName", *_SIDES, "IsGroupOf")


@dataclass(frozen=True, slots=True)
class BoxRow:
    """A box of a single thing."""

    image: str
    """Split and id of the image: `validation/0001eeaf4aed83f9`."""
    label: str
    """Id of the class, such as `/m/0342h`."""
    box: RelativeBox


def class_names(path: Path) -> Mapping[str, str]:
    """Return the display names of the classes by id, from a CSV with or without a header.

    Raises:
        InvalidBenchmark: the file is missing or is no list of classes.
    """
    rows = list(_rows(path))
    if rows and not rows[0][1][0].startswith("/"):
        rows = rows[1:]  # the header of V6 and V7
    for number, row in rows:
        if len(row) != 2 or not row[0].startswith("/"):
            raise InvalidBenchmark(
                f"{path}, row {number}: {row} is not a class's id and name, such as /m/0342h,Guitar: give "
                f"class-descriptions-boxable.csv of {_SOURCE}"
            )
    return {row[0]: row[1].strip() for _, row in rows}


def single_boxes(path: Path, split: str, names: Mapping[str, str]) -> Iterator[BoxRow]:
    """Yield the boxes that do not stand for a group of things.

    Args:
        path: CSV such as `validation-annotations-bbox.csv`.
        split: name of the split, the first part of `BoxRow.image`.
        names: names of the classes, in which each label must occur.

    Raises:
        InvalidBenchmark: the file is missing, lacks columns, or has a row with an unknown class or an unusable number.
    """
    rows = _rows(path)
    columns = _columns(path, next(rows, (1, []))[1])
    image, label, *sides, group = columns
    for number, row in rows:
        if len(row) <= max(columns):
            raise InvalidBenchmark(f"{path}, row {number}: has only {len(row)} values: download it again")
        if row[label] not in names:
            raise InvalidBenchmark(
                f"{path}, row {number}: LabelName {row[label]!r} is not among the classes: give files of one version"
            )
        if row[group] != "1":
            yield BoxRow(f"{split}/{row[image]}", row[label], _box(path, number, [row[side] for side in sides]))


def _columns(path: Path, header: Sequence[str]) -> list[int]:
    """Return the places of `_COLUMNS` in the header."""
    if missing := [name for name in _COLUMNS if name not in header]:
        raise InvalidBenchmark(
            f"{path}: has no column {', '.join(missing)}: give validation-annotations-bbox.csv or the like of {_SOURCE}"
        )
    return [header.index(name) for name in _COLUMNS]


def _box(path: Path, number: int, sides: Sequence[str]) -> RelativeBox:
    try:
        left, top, right, bottom = map(float, sides)
    except ValueError as error:
        raise InvalidBenchmark(f"{path}, row {number}: {', '.join(_SIDES)}: {error}: download it again") from None
    return left, top, right, bottom


def _rows(path: Path) -> Iterator[tuple[int, list[str]]]:
    """Yield the rows of a CSV that are not empty, with their numbers from 1."""
    try:
        with path.open(encoding="utf-8", newline="") as file:
            yield from ((number, row) for number, row in enumerate(csv.reader(file), 1) if row)
    except OSError as error:
        raise InvalidBenchmark(f"{path} cannot be read ({error.strerror}): download it from {_SOURCE}") from None
    except (csv.Error, UnicodeDecodeError) as error:
        raise InvalidBenchmark(f"{path}: not a CSV ({error}): download it again") from None
