"""Images and labels in the format of Open Images V4 to V7, with rule 7 of App. B.1 of the paper.

    oidv6-train-annotations-bbox.csv            boxes as shares of the image's sides
    oidv7-class-descriptions-boxable.csv        names of the classes
    train-annotations-object-segmentation.csv   masks of boxes, and a folder with their PNG files
    open_images_train_captions.jsonl            captions of the Localized Narratives

"(7) For the OpenImages training set, we filter out entities that appear in groups and belong to human body parts."
https://storage.googleapis.com/openimages/web/download_v7.html
"""

import csv
import hashlib
import logging
import os
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

from labeling.download.fetching.local_file import file_url
from labeling.errors import ExchangeError
from labeling.exchange.folder_import import IMAGE_SUFFIXES
from labeling.exchange.json_items import json_lines
from labeling.exchange.labels import BoxSides, GivenLabel
from labeling.source_index import IdentifiedImage, ListedImage, SourceIndex

log = logging.getLogger(__name__)
_SIDES = ("XMin", "YMin", "XMax", "YMax")
_BOX_COLUMNS = ("ImageID", "LabelName", *_SIDES, "IsGroupOf")
_MASK_SIDES = tuple(f"Box{side}" for side in _SIDES)
_MASK_COLUMNS = ("MaskPath", "ImageID", "LabelName", *_MASK_SIDES)
_SAME_BOX = 0.01
"""Largest difference between the sides of a box and those in the list of masks, which are rounded; as a share."""


@dataclass(frozen=True, slots=True)
class OpenImagesFiles:
    """Files of one split of Open Images."""

    boxes: Path
    """File such as `validation-annotations-bbox.csv`."""
    classes: Path
    """File such as `class-descriptions-boxable.csv`, with or without a header."""
    images: Path
    """Folder of the images, each named by its ImageID. Labels of other images are counted and left out."""
    body_parts: Collection[str]
    """Classes of parts of the human body, such as `/m/0dzct`."""
    masks: Path | None = None
    """File such as `validation-annotations-object-segmentation.csv`; None if there is none."""
    mask_images: Path | None = None
    """Folder of the masks."""
    captions: Path | None = None
    """File of captions: an object with `image_id` and `caption` per line; None if there is none."""
    skipped: Counter[str] = field(default_factory=Counter, compare=False)
    """Rows of each file about images that the folder lacks."""

    @property
    def files(self) -> Sequence[Path]:
        """The files with labels and captions."""
        return [path for path in (self.boxes, self.classes, self.masks, self.captions) if path is not None]

    def listing(self) -> str:
        """Return a hash of the names of the images, in any order."""
        hashes = (hashlib.sha256(os.fsencode(path.relative_to(self.images))).digest() for path in _images(self.images))
        return f"{sum(int.from_bytes(each[:8], 'big') for each in hashes):x}"

    def fill(self, index: SourceIndex) -> None:
        """Add the images, labels, masks and captions to the index. Reads the files as streams.

        Raises:
            ExchangeError: a file is missing, lacks a column, or has a row with an unknown class or no number.
        """
        names = class_names(self.classes)
        index_images(self.images, index)
        for number, row in _rows(self.boxes, _BOX_COLUMNS):
            if image := self._image(row["ImageID"], index, self.boxes):
                label = self._label(row, _SIDES, names, f"{self.boxes}, row {number}")
                index.add_labels([(image.url, label.model_dump_json(exclude_defaults=True))])
        if self.masks is not None:
            self._add_masks(self.masks, names, index)
        if self.captions is not None:
            self._add_captions(self.captions, index)
        for path, count in self.skipped.items():
            log.warning("%s: %d rows are about images that %s does not hold", path, count, self.images)

    def _add_masks(self, path: Path, names: Mapping[str, str], index: SourceIndex) -> None:
        """Give each box its mask. A mask without a box is a label of its own."""
        for number, row in _rows(path, _MASK_COLUMNS):
            image = self._image(row["ImageID"], index, path)
            if image is None:
                continue
            found = self._label(row, _MASK_SIDES, names, f"{path}, row {number}")
            masked = {"mask_file": str((self.mask_images or path.parent).absolute() / row["MaskPath"])}
            matching = (
                (at, label)
                for at, text in index.numbered_labels(image.url)
                if _is_same(label := GivenLabel.model_validate_json(text), found)
            )
            at, label = next(matching, (None, found))
            text = label.model_copy(update=masked).model_dump_json(exclude_defaults=True)
            if at is None:
                index.add_labels([(image.url, text)])
            else:
                index.replace_label(at, text)

    def _add_captions(self, path: Path, index: SourceIndex) -> None:
        for number, row in json_lines(path):
            identifier, caption = row.get("image_id"), row.get("caption")
            if not isinstance(identifier, str) or not isinstance(caption, str):
                raise ExchangeError(
                    f"{path}, row {number}: image_id or caption is no string: give Localized Narratives"
                )
            if image := self._image(identifier, index, path):
                index.add_images([ListedImage(image.url, " ".join(caption.split()) or None)])

    def _image(self, identifier: str, index: SourceIndex, path: Path) -> IdentifiedImage | None:
        image = index.identified(identifier)
        self.skipped.update([str(path)] if image is None else [])
        return image

    def _label(self, row: Mapping[str, str], sides: Sequence[str], names: Mapping[str, str], place: str) -> GivenLabel:
        name = row["LabelName"]
        if name not in names:
            raise ExchangeError(f"{place}: LabelName {name!r} is not in {self.classes}: give files of one version")
        try:
            left, top, right, bottom = (float(row[side]) for side in sides)
        except ValueError as error:
            raise ExchangeError(f"{place}: {', '.join(sides)}: {error}: download the file again") from None
        refusal = "group" if row.get("IsGroupOf") == "1" else "body_part" if name in self.body_parts else ""
        return GivenLabel(label=names[name], box=(left, top, right, bottom), is_relative=True, refusal=refusal)


def class_names(path: Path) -> dict[str, str]:
    """Return the names of the classes in lower case by id, from a CSV with or without a header."""
    rows = [row for _, row in _raw_rows(path) if row and row[0] != "LabelName"]
    if not rows or any(len(row) < 2 or not row[0].startswith("/") for row in rows):
        raise ExchangeError(
            f"{path} is not a list of classes such as /m/0342h,Guitar: give class-descriptions-boxable.csv"
        )
    return {row[0]: " ".join(row[1].lower().split()) for row in rows}


def index_images(folder: Path, index: SourceIndex) -> None:
    """Add the images of a folder and of the folders in it, each with its name without suffix as identifier.

    Raises:
        ExchangeError: the folder has no image.
    """
    for path in _images(folder):
        url = file_url(PurePosixPath(path.relative_to(folder).as_posix()))
        index.add_images([ListedImage(url, None)])
        index.add_identifier(path.stem, IdentifiedImage(url, None))
    if not index.count_images():
        raise ExchangeError(f"{folder} has no images: give the folder of the images with --images")


def _images(folder: Path) -> Iterator[Path]:
    for parent, _, files in os.walk(folder):
        yield from (Path(parent, name) for name in files if Path(name).suffix.lower() in IMAGE_SUFFIXES)


def _is_same(label: GivenLabel, other: GivenLabel) -> bool:
    return label.mask_file is None and label.label == other.label and _is_near(label.box, other.box)


def _is_near(box: BoxSides, other: BoxSides) -> bool:
    return all(abs(a - b) <= _SAME_BOX for a, b in zip(box, other, strict=True))


def _rows(path: Path, columns: Sequence[str]) -> Iterator[tuple[int, dict[str, str]]]:
    """Yield the rows of a CSV with their numbers, from 2."""
    rows = _raw_rows(path)
    header = next(rows, (1, []))[1]
    if missing := [name for name in columns if name not in header]:
        raise ExchangeError(f"{path} has no column {', '.join(missing)}: give the file of Open Images")
    for number, row in rows:
        if len(row) != len(header):
            raise ExchangeError(f"{path}, row {number}: {len(row)} values for {len(header)} columns: download it again")
        yield number, dict(zip(header, row, strict=True))


def _raw_rows(path: Path) -> Iterator[tuple[int, list[str]]]:
    try:
        with path.open(encoding="utf-8", newline="") as file:
            yield from ((number, row) for number, row in enumerate(csv.reader(file), 1) if row)
    except OSError as error:
        raise ExchangeError(f"{path} cannot be read ({error.strerror}): give the path of the file") from error
    except (csv.Error, UnicodeDecodeError) as error:
        raise ExchangeError(f"{path} is not a CSV ({error}): download it again") from error
