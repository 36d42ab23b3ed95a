"""Step 3 of Fig. 2: the boxes of each noun in the image."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import ClassVar, Generic

from labeling.config import DetectConfig
from labeling.sdd.pixels import decode
from labeling.sdd.schema import Box, Detection, Detections, Layer, Noun
from labeling.stages.base import Drop
from labeling.stages.networks import DetectedBox, Detector, Prepared, Resizing


@dataclass(frozen=True, slots=True, kw_only=True)
class DetectInput:
    """Columns that the stage reads."""

    key: bytes
    image: bytes
    width_px: int
    height_px: int
    nouns: tuple[Noun, ...]


@dataclass(frozen=True, slots=True)
class DetectQuery(Generic[Prepared]):
    """A prepared image, and the nouns to look for."""

    key: bytes
    nouns: tuple[Noun, ...]
    image: Prepared


class DetectStage(Generic[Prepared]):
    """Stage that finds nouns with Grounding DINO (Sec. 3.1)."""

    name: ClassVar[str] = Layer.DETECTIONS
    reads: ClassVar[type] = DetectInput
    writes: ClassVar[type] = Detections

    def __init__(self, config: DetectConfig, load: Callable[[DetectConfig], Detector[Prepared]]) -> None:
        self.config = config
        self.detector: Detector[Prepared] | None = None
        self._load = load

    def setup(self) -> None:
        """Load the detector."""
        if self.detector is None:
            self.detector = self._load(self.config)

    @property
    def batch_key(self) -> Resizing | None:
        """Size of a row's image after resizing; None if all have one size."""
        assert self.detector is not None, "setup() was not called"
        return self.detector.resizing

    def prepare(self, row: DetectInput) -> DetectQuery[Prepared]:
        """Decode and prepare an image."""
        assert self.detector is not None, "setup() was not called"
        return DetectQuery(key=row.key, nouns=row.nouns, image=self.detector.prepare(decode(row.image)))

    def process(self, batch: Sequence[DetectQuery[Prepared]]) -> list[Detections | Drop]:
        """Detect the nouns of each image; an image without a box is dropped."""
        assert self.detector is not None, "setup() was not called"
        labels = [[noun.label for noun in row.nouns] for row in batch]
        detected = self.detector.detect([row.image for row in batch], labels)
        return [
            Detections(key=row.key, detections=tuple(detection_of(row.nouns[box.label_index], box) for box in boxes))
            if boxes
            else Drop("no_box", ", ".join(names)[:200])
            for row, names, boxes in zip(batch, labels, detected, strict=True)
        ]


def detection_of(noun: Noun, detected: DetectedBox) -> Detection:
    """Return the detection of a noun in a box."""
    x0, y0, x1, y1 = detected.box
    return Detection(
        label=noun.label,
        span_start=noun.span_start,
        span_end=noun.span_end,
        score=detected.score,
        box=Box(x0=x0, y0=y0, x1=x1, y1=y1),
    )
