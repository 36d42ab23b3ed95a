"""Step 4 of Fig. 2: the mask of each box."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from labeling.config import SegmentConfig
from labeling.rules import broken_box_rules
from labeling.sdd import masks
from labeling.sdd.pixels import decode
from labeling.sdd.schema import Candidate, Detection, Entities, Layer, Segment
from labeling.stages.base import Drop
from labeling.stages.networks import SegmentedBox, Segmenter


@dataclass(frozen=True, slots=True, kw_only=True)
class SegmentInput:
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

    name: ClassVar[str] = Layer.ENTITIES
    reads: ClassVar[type] = SegmentInput
    writes: ClassVar[type] = Entities

    def __init__(self, config: SegmentConfig, load: Callable[[SegmentConfig], Segmenter]) -> None:
        self.config = config
        self.segmenter: Segmenter | None = None
        self._load = load

    def setup(self) -> None:
        if self.segmenter is None:
            self.segmenter = self._load(self.config)

    def prepare(self, row: SegmentInput) -> Prepared:
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


def _candidates(row: Prepared, found: Sequence[SegmentedBox]) -> tuple[Candidate, ...]:
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


def _segment(found: SegmentedBox) -> Segment | None:
    if not found.mask.any():
        return None
    return Segment(
        mask=masks.encode(found.mask),
        area_px=int(found.mask.sum()),
        predicted_iou=found.predicted_iou,
        stability=found.stability,
    )
