"""Step 4 of Fig. 2: the mask of each box."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol

import numpy as np
from numpy.typing import NDArray

from labeling.config import SegmentConfig, SegmenterBackend
from labeling.rules import broken_box_rules
from labeling.sdd import masks
from labeling.sdd.pixels import decode
from labeling.sdd.schema import Candidate, Detection, Entities, Segment
from labeling.stages.base import Drop


@dataclass(frozen=True, slots=True)
class Segmented:
    """The mask of one box."""

    mask: NDArray[np.bool_]
    """[H, W] of the upright image."""
    predicted_iou: float
    stability: float
    """IoU of the masks at logit +1 and -1."""


class Segmenter(Protocol):
    """A network that turns a box into a mask."""

    def prepare(self, image: NDArray[np.uint8]) -> Any:
        """Upright RGB [H, W, 3] as the network wants it, with its original size; CPU, thread-safe."""

    def segment(self, prepared: Sequence[Any], boxes: Sequence[NDArray[np.float32]]) -> list[list[Segmented]]:
        """For each image one mask per box of its [n, 4] xyxy boxes in pixels of the upright image; n may be 0."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Detected:
    """What the stage reads."""

    key: bytes
    image: bytes
    width_px: int
    height_px: int
    detections: tuple[Detection, ...]


@dataclass(frozen=True, slots=True)
class Prepared:
    """An image as the segmenter wants it, and which of its boxes are worth a mask."""

    key: bytes
    detections: tuple[Detection, ...]
    above_floor: tuple[bool, ...]
    image: Any


class SegmentStage:
    """Masks boxes with SAM (Sec. 3.1). Boxes that break rules 1 to 5 at `config.floor` are not worth a mask."""

    name: ClassVar[str] = "entities"
    reads: ClassVar[type] = Detected
    writes: ClassVar[type] = Entities

    def __init__(self, config: SegmentConfig, segmenter: Segmenter | None = None) -> None:
        self.config = config
        self.segmenter = segmenter

    def setup(self) -> None:
        if self.segmenter is None:
            self.segmenter = _load(self.config)

    def prepare(self, row: Detected) -> Prepared:
        """The pixels only where a box deserves a mask: an image without one is never decoded."""
        assert self.segmenter is not None, "setup() was not called"
        broken = broken_box_rules(row.detections, row.width_px, row.height_px, self.config.floor)
        above = tuple(not rules for rules in broken)
        image = self.segmenter.prepare(decode(row.image)) if any(above) else None
        return Prepared(key=row.key, detections=row.detections, above_floor=above, image=image)

    def process(self, batch: Sequence[Prepared]) -> list[Entities | Drop]:
        assert self.segmenter is not None, "setup() was not called"
        rows = [row for row in batch if row.image is not None]
        boxes = [_boxes(row) for row in rows]
        found = self.segmenter.segment([row.image for row in rows], boxes) if rows else []
        segments = {row.key: found_ for row, found_ in zip(rows, found, strict=True)}
        return [Entities(key=row.key, candidates=_candidates(row, segments.get(row.key, []))) for row in batch]


def _boxes(row: Prepared) -> NDArray[np.float32]:
    chosen = [d.box for d, above in zip(row.detections, row.above_floor, strict=True) if above]
    return np.array([(b.x0, b.y0, b.x1, b.y1) for b in chosen], np.float32).reshape(-1, 4)


def _candidates(row: Prepared, found: Sequence[Segmented]) -> tuple[Candidate, ...]:
    masked = iter(found)
    return tuple(
        Candidate(
            label=d.label,
            span_start=d.span_start,
            span_end=d.span_end,
            score=d.score,
            box=d.box,
            segment=_segment(next(masked)) if above else None,
        )
        for d, above in zip(row.detections, row.above_floor, strict=True)
    )


def _segment(found: Segmented) -> Segment | None:
    if not found.mask.any():
        return None
    return Segment(
        mask=masks.encode(found.mask),
        area_px=int(found.mask.sum()),
        predicted_iou=found.predicted_iou,
        stability=found.stability,
    )


def _load(config: SegmentConfig) -> Segmenter:  # torch: in the worker only
    if config.backend is SegmenterBackend.SEGMENT_ANYTHING:
        from labeling.backends.segment_anything_package import SegmentAnythingSegmenter

        return SegmentAnythingSegmenter(config)
    from labeling.backends.sam_hf import SamHfSegmenter

    return SamHfSegmenter(config)
