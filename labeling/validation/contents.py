"""Contents of one shard as the checks read them: its files, and the nouns, boxes and masks in them."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import TypeAlias

from labeling.sdd.arrow import Record, row_of
from labeling.sdd.schema import Candidate, Detection, Entity, JudgedCandidate, Layer, Mask, Noun
from labeling.validation.faults import Fault
from labeling.validation.layer_file import LayerFile

Label: TypeAlias = Noun | Detection | Candidate | Entity | JudgedCandidate
LABELS: Mapping[Layer, tuple[str, type[Label]]] = {
    Layer.NOUNS: ("nouns", Noun),
    Layer.DETECTIONS: ("detections", Detection),
    Layer.ENTITIES: ("candidates", Candidate),
    Layer.SDD: ("entities", Entity),
    Layer.LEDGER: ("candidates", JudgedCandidate),
}
"""Column with the labels of an image, and the class of one, for each layer that has them."""


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


@dataclass(frozen=True, slots=True)
class Masked:
    """A mask with the columns of its label."""

    label: Labelled
    mask: Mask
    area_px: int
    column: str
    """Column of the mask inside the label: "mask", or "segment.mask" in entities/."""
    area_column: str
    """Column of the area inside the label."""

    def fault(self, message: str) -> Fault:
        """Return a fault of the mask."""
        return self.label.fault(self.column, message)


class ShardContents:
    """All readable files of one shard.

    Args:
        files: files by layer.
    """

    def __init__(self, files: Mapping[Layer, LayerFile]) -> None:
        self.files = files

    @cached_property
    def by_key(self) -> Mapping[Layer, Mapping[bytes, Record]]:
        """Records of each layer by their key."""
        return {layer: {record["key"]: record for record in file.records} for layer, file in self.files.items()}

    @cached_property
    def labels(self) -> list[Labelled]:
        """Every noun, detection, candidate and entity of the shard."""
        layers = [layer for layer in LABELS if layer in self.files]
        return [label for layer in layers for label in self._labels_in(self.files[layer])]

    @cached_property
    def masks(self) -> list[Masked]:
        """Every mask of the shard."""
        return [masked for label in self.labels if (masked := _masked(label))]

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
        for source in (record, self.by_key.get(Layer.IMAGES, {}).get(record["key"], {})):
            width, height = source.get("width_px"), source.get("height_px")
            if width is not None and height is not None:
                return width, height
        return None


def _masked(label: Labelled) -> Masked | None:
    """Return the mask of a label; None if it has none."""
    match label.value:
        case Entity(mask=mask, mask_area_px=area_px):
            return Masked(label, mask, area_px, "mask", "mask_area_px")
        case Candidate(segment=segment) if segment is not None:
            return Masked(label, segment.mask, segment.area_px, "segment.mask", "segment.area_px")
        case _:
            return None
