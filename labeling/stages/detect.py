"""Step 3 of Fig. 2: where in the image each noun is."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol

import numpy as np
from numpy.typing import NDArray

from labeling.config import DetectConfig, DetectorBackend
from labeling.sdd.pixels import decode
from labeling.sdd.schema import Box, Detection, Detections, Noun
from labeling.stages.base import Drop


@dataclass(frozen=True, slots=True)
class Found:
    """One box of one label."""

    label_index: int
    """Into the labels that were asked for."""
    score: float
    """The label's own tokens only, in [0, 1]."""
    box: tuple[float, float, float, float]
    """x0, y0, x1, y1 in pixels of the upright image, clipped to it."""


class Detector(Protocol):
    """An open-vocabulary detector."""

    def prepare(self, image: NDArray[np.uint8]) -> Any:
        """Upright RGB [H, W, 3] as the network wants it, with its original size; CPU, thread-safe."""

    def detect(self, prepared: Sequence[Any], labels: Sequence[Sequence[str]]) -> list[list[Found]]:
        """For each image the boxes of its labels, best first; thresholds and NMS are the backend's settings."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Tagged:
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

    name: ClassVar[str] = "detections"
    reads: ClassVar[type] = Tagged
    writes: ClassVar[type] = Detections

    def __init__(self, config: DetectConfig, detector: Detector | None = None) -> None:
        self.config = config
        self.detector = detector

    def setup(self) -> None:
        if self.detector is None:
            self.detector = _load(self.config)

    def prepare(self, row: Tagged) -> Prepared:
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


def _detection(noun: Noun, found: Found) -> Detection:
    x0, y0, x1, y1 = found.box
    box = Box(x0=x0, y0=y0, x1=x1, y1=y1)
    return Detection(label=noun.label, span_start=noun.span_start, span_end=noun.span_end, score=found.score, box=box)


def _load(config: DetectConfig) -> Detector:  # torch: in the worker only
    if config.backend is DetectorBackend.GROUNDINGDINO:
        from labeling.backends.groundingdino_package import GroundingDinoPackageDetector

        return GroundingDinoPackageDetector(config)
    from labeling.backends.grounding_dino_hf import GroundingDinoHfDetector

    return GroundingDinoHfDetector(config)
