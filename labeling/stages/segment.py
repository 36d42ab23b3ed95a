"""Step 4 of Fig. 2: the mask of each box."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import ClassVar, Generic

import numpy as np
from numpy.typing import NDArray

from labeling.config import SegmentConfig
from labeling.rules import broken_box_rules
from labeling.sdd import masks
from labeling.sdd.pixels import decode
from labeling.sdd.schema import Candidate, Detection, Entities, Layer, Segment
from labeling.stages.networks import Prepared, SegmentedBox, Segmenter


@dataclass(frozen=True, slots=True, kw_only=True)
class SegmentInput:
    """Columns that the stage reads."""

    key: bytes
    image: bytes
    width_px: int
    height_px: int
    detections: tuple[Detection, ...]


@dataclass(frozen=True, slots=True)
class SegmentQuery(Generic[Prepared]):
    """A prepared image, and the boxes that get a mask."""

    key: bytes
    detections: tuple[Detection, ...]
    above_floor: tuple[bool, ...]
    """Whether each detection keeps the rules of `SegmentConfig.floor`, and gets a mask."""
    image: Prepared | None
    """None if no detection gets a mask."""


@dataclass(frozen=True, slots=True)
class ComputedMasks:
    """The boxes of an image, and the masks that the network found."""

    key: bytes
    detections: tuple[Detection, ...]
    above_floor: tuple[bool, ...]
    """Whether each detection has a mask."""
    masks: Iterable[SegmentedBox]
    """Masks of these detections, made while they are iterated over."""


class SegmentStage(Generic[Prepared]):
    """Stage that masks boxes with SAM (Sec. 3.1). Boxes that break rules 1 to 5 at `config.floor` get no mask."""

    name: ClassVar[str] = Layer.ENTITIES
    reads: ClassVar[type] = SegmentInput
    writes: ClassVar[type] = Entities

    def __init__(self, config: SegmentConfig, load: Callable[[SegmentConfig], Segmenter[Prepared]]) -> None:
        self.config = config
        self.segmenter: Segmenter[Prepared] | None = None
        self._load = load

    def setup(self) -> None:
        """Load the segmenter."""
        if self.segmenter is None:
            self.segmenter = self._load(self.config)

    def prepare(self, row: SegmentInput) -> SegmentQuery[Prepared]:
        """Decode and prepare an image, if one of its boxes gets a mask."""
        assert self.segmenter is not None, "setup() was not called"
        broken = broken_box_rules(row.detections, row.width_px, row.height_px, self.config.floor)
        above = tuple(not rules for rules in broken)
        image = self.segmenter.prepare(decode(row.image)) if any(above) else None
        return SegmentQuery(key=row.key, detections=row.detections, above_floor=above, image=image)

    def process(self, batch: Sequence[SegmentQuery[Prepared]]) -> list[Entities]:
        """Mask the boxes of each image."""
        return [self.finish(computed) for computed in self.compute(batch)]

    def compute(self, batch: Sequence[SegmentQuery[Prepared]]) -> list[ComputedMasks]:
        """Run the network on a batch."""
        assert self.segmenter is not None, "setup() was not called"
        images = [row.image for row in batch if row.image is not None]
        rows = [row for row in batch if row.image is not None]
        masks_of_rows = self.segmenter.segment(images, [_boxes(row) for row in rows]) if rows else []
        masked = {row.key: boxes for row, boxes in zip(rows, masks_of_rows, strict=True)}
        return [ComputedMasks(row.key, row.detections, row.above_floor, masked.get(row.key, ())) for row in batch]

    def finish(self, computed: ComputedMasks) -> Entities:
        """Make and encode the masks of an image, one after the other."""
        return Entities(key=computed.key, candidates=_candidates(computed))


def _boxes(row: SegmentQuery[Prepared]) -> NDArray[np.float32]:
    chosen = [d.box for d, above in zip(row.detections, row.above_floor, strict=True) if above]
    return np.array([(b.x0, b.y0, b.x1, b.y1) for b in chosen], np.float32).reshape(-1, 4)


def _candidates(computed: ComputedMasks) -> tuple[Candidate, ...]:
    boxes = iter(computed.masks)
    return tuple(
        Candidate.from_detection(detection, _segment(next(boxes)) if above else None)
        for detection, above in zip(computed.detections, computed.above_floor, strict=True)
    )


def _segment(masked: SegmentedBox) -> Segment | None:
    if not masked.mask.any():
        return None
    mask = masks.encode(masked.mask)
    return Segment(
        mask=mask,
        area_px=masks.area_px(mask),
        predicted_iou=masked.predicted_iou,
        stability=masked.stability,
    )
