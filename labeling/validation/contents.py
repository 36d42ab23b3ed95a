"""Contents of one shard as the checks read them: its files, and the nouns, boxes and masks in them."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Protocol, TypeAlias

from labeling.sdd.arrow import Record, row_of
from labeling.sdd.schema import (
    CONFIRMATIONS,
    Candidate,
    Detection,
    Entity,
    JudgedCandidate,
    Layer,
    Mask,
    Noun,
    OverlookedBox,
)
from labeling.validation.faults import Fault
from labeling.validation.layer_file import LayerFile

Label: TypeAlias = Noun | Detection | Candidate | Entity | JudgedCandidate | OverlookedBox
LABELS: Mapping[str, tuple[str, type[Label]]] = {
    Layer.NOUNS: ("nouns", Noun),
    Layer.DETECTIONS: ("detections", Detection),
    Layer.ENTITIES: ("candidates", Candidate),
    Layer.SDD: ("entities", Entity),
    Layer.LEDGER: ("candidates", JudgedCandidate),
    CONFIRMATIONS: ("overlooked", OverlookedBox),
}
"""Column with the labels of an image, and the class of one, for each layer or optional folder that has them."""


@dataclass(frozen=True, slots=True)
class Labelled:
    """A label with its place in the dataset and the facts about its image."""

    value: Label
    file: LayerFile
    row: int
    """Row in the file, from 0."""
    column: str
    """Column with the index in its list: "entities[2]"."""
    caption: str | None
    """Caption of the image; None if no layer has one."""
    size: tuple[int, int] | None
    """Width and height of the image in pixels; None if no layer has them."""

    @property
    def key(self) -> bytes:
        """Key of the image."""
        key: bytes = self.file.records[self.row]["key"]
        return key

    def fault(self, column: str, message: str) -> Fault:
        """Return a fault of a column inside the label."""
        return self.file.fault(message, self.row, f"{self.column}.{column}")


class Place(Protocol):
    """Place of a mask in the dataset."""

    @property
    def key(self) -> bytes:
        """Key of the image."""

    def fault(self, column: str, message: str) -> Fault:
        """Return a fault of a column at this place."""


@dataclass(frozen=True, slots=True)
class StoredMask:
    """A mask with its place and its columns there."""

    place: Place
    mask: Mask
    column: str
    """Column of the mask: "mask" or "segment.mask"."""
    area_px: int | None
    """Area that is stored beside the mask; None if there is none, as in a correction."""
    area_column: str
    """Column of the area."""


@dataclass(frozen=True, slots=True)
class Masked:
    """A mask and the size of its image."""

    stored: StoredMask
    size: tuple[int, int] | None
    """Width and height of the image in pixels; None if no layer has them."""

    @property
    def mask(self) -> Mask:
        """The mask."""
        return self.stored.mask

    def fault(self, message: str) -> Fault:
        """Return a fault of the mask."""
        return self.stored.place.fault(self.stored.column, message)

    def area_fault(self, message: str) -> Fault:
        """Return a fault of its area."""
        return self.stored.place.fault(self.stored.area_column, message)


class ShardContents:
    """All readable files of one shard.

    Args:
        files: files by layer or optional folder.
        corrections: masks of the shard in corrections/.
    """

    def __init__(self, files: Mapping[str, LayerFile], corrections: Sequence[StoredMask] = ()) -> None:
        self.files = files
        self._corrections = corrections

    @cached_property
    def by_key(self) -> Mapping[str, Mapping[bytes, Record]]:
        """Records of each file by their key."""
        return {layer: {record["key"]: record for record in file.records} for layer, file in self.files.items()}

    @cached_property
    def labels(self) -> list[Labelled]:
        """Every noun, detection, candidate and entity of the shard."""
        layers = [layer for layer in LABELS if layer in self.files]
        return [label for layer in layers for label in self._labels_in(self.files[layer])]

    @cached_property
    def masks(self) -> list[Masked]:
        """Every mask of the shard, those of corrections too."""
        labelled = [Masked(stored, label.size) for label in self.labels if (stored := _stored_mask(label))]
        return labelled + [Masked(stored, self._size_of_key(stored.place.key)) for stored in self._corrections]

    def _labels_in(self, file: LayerFile) -> Iterator[Labelled]:
        column, kind = LABELS[file.layer]
        for row, record in enumerate(file.records):
            caption, size = self._caption_of(record), self._size_of(record)
            for index, item in enumerate(record[column] or ()):
                yield Labelled(row_of(kind, item), file, row, f"{column}[{index}]", caption, size)

    def _caption_of(self, record: Record) -> str | None:
        """Return the caption of the image of a row, from the row itself or from captions/."""
        source = record if "caption" in record else self.by_key.get(Layer.CAPTIONS, {}).get(record["key"], {})
        caption: str | None = source.get("caption")
        return caption

    def _size_of(self, record: Record) -> tuple[int, int] | None:
        """Return the size of the image of a row, from the row itself or from images/."""
        return _size_in(record) or _size_in(self.by_key.get(Layer.IMAGES, {}).get(record["key"], {}))

    def _size_of_key(self, key: bytes) -> tuple[int, int] | None:
        """Return the size of an image, from images/ or the product."""
        sizes = (_size_in(self.by_key.get(layer, {}).get(key, {})) for layer in (Layer.IMAGES, Layer.LEDGER, Layer.SDD))
        return next(filter(None, sizes), None)


def _size_in(record: Record) -> tuple[int, int] | None:
    width, height = record.get("width_px"), record.get("height_px")
    return None if width is None or height is None else (width, height)


def _stored_mask(label: Labelled) -> StoredMask | None:
    """Return the mask of a label; None if it has none."""
    match label.value:
        case Entity(mask=mask, mask_area_px=area_px):
            return StoredMask(label, mask, "mask", area_px, "mask_area_px")
        case Candidate(segment=segment) if segment is not None:
            return StoredMask(label, segment.mask, "segment.mask", segment.area_px, "segment.area_px")
        case _:
            return None
