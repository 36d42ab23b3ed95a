"""Step 3 of Fig. 2: where in the image each noun is."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from labeling.config import DetectConfig
from labeling.sdd.pixels import decode
from labeling.sdd.schema import Box, Detection, Detections, Layer, Noun
from labeling.stages.base import Drop
from labeling.stages.networks import DetectedBox, Detector


@dataclass(frozen=True, slots=True, kw_only=True)
class DetectInput:
    """What the stage reads."""

    key: bytes
    image: bytes
    nouns: tuple[Noun, ...]


@dataclass(frozen=True, slots=True)
class Prepared:
    """An image as the detector wants it, and what to look for."""

    key: bytes
    nouns: tuple[Noun, ...]
    image: Any


class DetectStage:
    """Finds the nouns with Grounding DINO (Sec. 3.1)."""

    name: ClassVar[str] = Layer.DETECTIONS
    reads: ClassVar[type] = DetectInput
    writes: ClassVar[type] = Detections

    def __init__(self, config: DetectConfig, load: Callable[[DetectConfig], Detector]) -> None:
        self.config = config
        self.detector: Detector | None = None
        self._load = load

    def setup(self) -> None:
        if self.detector is None:
            self.detector = self._load(self.config)

    def prepare(self, row: DetectInput) -> Prepared:
        assert self.detector is not None, "setup() was not called"
        return Prepared(key=row.key, nouns=row.nouns, image=self.detector.prepare(decode(row.image)))

    def process(self, batch: Sequence[Prepared]) -> list[Detections | Drop]:
        assert self.detector is not None, "setup() was not called"
        labels = [[noun.label for noun in row.nouns] for row in batch]
        found = self.detector.detect([row.image for row in batch], labels)
        return [
            Detections(key=row.key, detections=tuple(_detection(row.nouns[f.label_index], f) for f in boxes))
            if boxes
            else Drop("no_box", ", ".join(names)[:200])
            for row, names, boxes in zip(batch, labels, found, strict=True)
        ]


def _detection(noun: Noun, found: DetectedBox) -> Detection:
    x0, y0, x1, y1 = found.box
    box = Box(x0=x0, y0=y0, x1=x1, y1=y1)
    return Detection(label=noun.label, span_start=noun.span_start, span_end=noun.span_end, score=found.score, box=box)
