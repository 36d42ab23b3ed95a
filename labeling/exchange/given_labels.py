"""Stages of an import with labels, in place of the tagger, the detector and the segmenter.

They are stages like any other, so worker processes, verdicts, stamps and resuming are those of a build. Each reads the
labels of an image from the index of the import by its URL.
"""

import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Generic

from infra.config import Config
from labeling.config import SegmentConfig
from labeling.exchange.labels import GivenLabel, PlacedLabel, mask_of, place
from labeling.sdd import masks
from labeling.sdd.pixels import MAX_PIXELS, open_image, orientation_of
from labeling.sdd.schema import (
    Candidate,
    Detection,
    Detections,
    Entities,
    Layer,
    Noun,
    Nouns,
    RemovedNoun,
    Segment,
)
from labeling.sdd.spans import label_span
from labeling.source_index import SourceIndex
from labeling.stages.base import Drop
from labeling.stages.networks import Prepared, Segmenter
from labeling.stages.segment import SegmentInput, SegmentQuery, SegmentStage


class GivenLabelsConfig(Config):
    """Labels of an import."""

    index: str
    """Path of the index with the labels. It changes no result, so it is not part of a file's stamp."""
    digest: str
    """Hash of the files from which the index was made."""

    def fingerprint(self) -> str:
        """Return the hash of the labels."""
        return self.digest


@dataclass(frozen=True, slots=True, kw_only=True)
class LabelledCaption:
    """Columns that the stage of nouns reads."""

    key: bytes
    url: str
    caption: str
    width_px: int
    height_px: int


@dataclass(frozen=True, slots=True, kw_only=True)
class LabelledImage:
    """Columns that the stage of boxes reads."""

    key: bytes
    url: str
    width_px: int
    height_px: int
    nouns: tuple[Noun, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class LabelledPicture:
    """Columns that the stage of masks reads."""

    key: bytes
    url: str
    width_px: int
    height_px: int
    detections: tuple[Detection, ...]
    image: bytes


class LabelReader:
    """Reads the labels of images in a worker process.

    Args:
        config: the index.
    """

    def __init__(self, config: GivenLabelsConfig) -> None:
        self._config = config
        self._index: SourceIndex | None = None

    def open(self) -> None:
        """Open the index."""
        self._index = SourceIndex.open_to_read(Path(self._config.index))

    def placed(self, url: str, width_px: int, height_px: int) -> list[PlacedLabel]:
        """Return the labels of an image with their boxes in pixels, those that are left out too."""
        assert self._index is not None, "open() was not called"
        given = map(GivenLabel.model_validate_json, self._index.labels(url))
        return [place(label, width_px, height_px) for label in given]


class GivenNounStage:
    """Stage that takes the labels of an image as the nouns of its caption."""

    name: ClassVar[str] = Layer.NOUNS
    reads: ClassVar[type] = LabelledCaption
    writes: ClassVar[type] = Nouns

    def __init__(self, config: GivenLabelsConfig) -> None:
        self.config = config
        self._labels = LabelReader(config)

    def setup(self) -> None:
        """Open the index."""
        self._labels.open()

    def prepare(self, row: LabelledCaption) -> LabelledCaption:
        """Return the row: there is nothing to prepare."""
        return row

    def process(self, batch: Sequence[LabelledCaption]) -> list[Nouns | Drop]:
        """Return the labels of each image; an image without a usable one is dropped."""
        return [self._nouns(row) for row in batch]

    def _nouns(self, row: LabelledCaption) -> Nouns | Drop:
        placed = self._labels.placed(row.url, row.width_px, row.height_px)
        kept = dict.fromkeys(label.given.label for label in placed if not label.refusal)
        removed = tuple(RemovedNoun(label=p.given.label, reason=p.refusal) for p in placed if p.refusal)
        nouns = Nouns(key=row.key, nouns=tuple(_noun(label, row.caption) for label in kept), removed_nouns=removed)
        if kept:
            return nouns
        detail = ", ".join(sorted({noun.reason for noun in removed}))
        return Drop("only_refused_labels" if removed else "no_label", detail, nouns)


class GivenBoxStage:
    """Stage that takes the boxes of an image's labels as detections."""

    name: ClassVar[str] = Layer.DETECTIONS
    reads: ClassVar[type] = LabelledImage
    writes: ClassVar[type] = Detections

    def __init__(self, config: GivenLabelsConfig) -> None:
        self.config = config
        self._labels = LabelReader(config)

    def setup(self) -> None:
        """Open the index."""
        self._labels.open()

    def prepare(self, row: LabelledImage) -> LabelledImage:
        """Return the row: there is nothing to prepare."""
        return row

    def process(self, batch: Sequence[LabelledImage]) -> list[Detections | Drop]:
        """Return the boxes of each image, with the score 1."""
        return [Detections(key=row.key, detections=tuple(self._detections(row))) for row in batch]

    def _detections(self, row: LabelledImage) -> Iterator[Detection]:
        nouns = {noun.label: noun for noun in row.nouns}
        for label in _kept(self._labels.placed(row.url, row.width_px, row.height_px)):
            noun = nouns[label.given.label]
            span = (noun.span_start, noun.span_end)
            yield Detection(label=noun.label, span_start=span[0], span_end=span[1], score=1.0, box=label.box)


@dataclass(frozen=True, slots=True)
class MaskQuery(Generic[Prepared]):
    """An image with its labels, and the boxes without a mask for the segmenter."""

    row: LabelledPicture
    is_turned: bool
    """Whether the EXIF orientation turns the image, so that labels may refer to other pixels."""
    without_mask: SegmentQuery[Prepared] | None
    """None if every label has a mask."""


class GivenMaskStage(Generic[Prepared]):
    """Stage that takes the masks of an image's labels; boxes without one get theirs from the segmenter.

    Args:
        labels: the labels.
        config: settings of the segmenter, which is loaded when the first box without a mask comes.
        load: function that loads it.
    """

    name: ClassVar[str] = Layer.ENTITIES
    reads: ClassVar[type] = LabelledPicture
    writes: ClassVar[type] = Entities

    def __init__(
        self, labels: GivenLabelsConfig, config: SegmentConfig, load: Callable[[SegmentConfig], Segmenter[Prepared]]
    ) -> None:
        self.config = config
        self._labels = LabelReader(labels)
        self._segment = SegmentStage(config, load)
        self._lock: threading.Lock | None = None

    def setup(self) -> None:
        """Open the index."""
        self._lock = threading.Lock()
        self._labels.open()

    def prepare(self, row: LabelledPicture) -> MaskQuery[Prepared]:
        """Read the orientation of the image, and prepare it for the segmenter if a label has no mask."""
        assert self._lock is not None, "setup() was not called"
        with open_image(row.image, MAX_PIXELS) as image:
            if orientation_of(image) is not None:
                return MaskQuery(row, True, None)
        with self._lock:  # the index is read by one thread at a time
            given = self._given(row)
            without = [d for d, label in zip(row.detections, given, strict=True) if not _has_mask(label)]
            if without:
                self._segment.setup()
        return MaskQuery(row, False, self._segment.prepare(_segment_input(row, without)) if without else None)

    def process(self, batch: Sequence[MaskQuery[Prepared]]) -> list[Entities | Drop]:
        """Return the candidates of each image; an image that its EXIF orientation turns is dropped."""
        queries = [query.without_mask for query in batch if query.without_mask is not None]
        rows = self._segment.process(queries) if queries else []
        segmented = {row.key: iter(row.candidates) for row in rows if isinstance(row, Entities)}
        return [
            Drop("turned_by_exif", "labels may refer to the image before or after its EXIF orientation is applied")
            if query.is_turned
            else Entities(key=query.row.key, candidates=tuple(self._candidates(query.row, segmented)))
            for query in batch
        ]

    def _candidates(self, row: LabelledPicture, segmented: dict[bytes, Iterator[Candidate]]) -> Iterator[Candidate]:
        assert self._lock is not None, "setup() was not called"
        with self._lock:
            given = self._given(row)
        for detection, label in zip(row.detections, given, strict=True):
            if _has_mask(label):
                yield Candidate.from_detection(detection, _segment(label.given, row))
            else:
                yield next(segmented[row.key])

    def _given(self, row: LabelledPicture) -> list[PlacedLabel]:
        return _kept(self._labels.placed(row.url, row.width_px, row.height_px))


def _kept(placed: Sequence[PlacedLabel]) -> list[PlacedLabel]:
    return [label for label in placed if not label.refusal]


def _noun(label: str, caption: str) -> Noun:
    """Return a label with its place in the caption; the whole caption if it does not occur in it."""
    start, end = label_span(label, caption)
    return Noun(label=label, span_start=start, span_end=end)


def _has_mask(label: PlacedLabel) -> bool:
    given = label.given
    if given.mask_file is not None:
        return Path(given.mask_file).is_file()
    return given.run_lengths is not None or bool(given.polygons)


def _segment(given: GivenLabel, row: LabelledPicture) -> Segment | None:
    """Return the mask of a label with scores of 1; None for an empty mask."""
    mask = mask_of(given, row.width_px, row.height_px)
    if mask is None or not mask.any():
        return None
    return Segment(mask=masks.encode(mask), area_px=int(mask.sum()), predicted_iou=1.0, stability=1.0)


def _segment_input(row: LabelledPicture, detections: Sequence[Detection]) -> SegmentInput:
    return SegmentInput(
        key=row.key,
        image=row.image,
        width_px=row.width_px,
        height_px=row.height_px,
        detections=tuple(detections),
    )
