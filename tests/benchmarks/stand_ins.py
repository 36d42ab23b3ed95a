"""Networks that sleep as long as one H100 would compute, for measurements of what feeds them.

All else is the pipeline's own: image processors, prompts, thresholds, suppression, and the encoding of masks. What a
GPU would do to make masks of the upright size, cv2 does here by drawing ellipses. The module is importable by workers.
"""

import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from transformers import BlipImageProcessor, GroundingDinoImageProcessor

from infra.config import Config
from labeling.backends.grounding_dino.detect import PreparedImage, PromptedDetector, prepare_image, resizing_of
from labeling.backends.grounding_dino.package import PREPROCESSING
from labeling.backends.grounding_dino.prompt import PromptBatch, PromptWriter
from labeling.backends.pixel_values import input_px, prepare_pixels
from labeling.backends.sam.predict import Preprocessing, SamImage
from labeling.config import CaptionConfig, DetectConfig, SegmentConfig
from labeling.stages.networks import DetectedBox, SegmentedBox
from miniature.networks.vocabulary import detection_vocabulary
from miniature.world.scenes import phrases

A100_S = {"captions": 1 / 180, "detections": 1 / 100, "entities": 1 / 21.9}
"""Seconds an image on an A100. SAM ViT-H: published (segment-anything-fast, bfloat16, torch.compile and SDPA). BLIP-2:
an estimate, no figure is published. Grounding DINO: an estimate for full batches; published are 8.37 images/s one at a
time, which would need fewer CPU cores."""
H100_FACTOR = 2.0
"""Speed of an H100 as a multiple of an A100's: an estimate."""
QUERIES, TOKENS = 900, 256
BOXES = 6
"""Boxes that the detector finds in an image, each of which gets a mask: an estimate."""
_WORDS = detection_vocabulary(phrases())


def gpu_s(stage: str) -> float:
    """Return the seconds of an H100 for an image."""
    return A100_S[stage] / H100_FACTOR


class Slowed(Config):
    """Settings of a stand-in."""

    slowdown: float = 1.0
    """Multiple of the H100's seconds that the stand-in sleeps."""


class SlowedCaption(CaptionConfig, Slowed):
    """Settings of the captioner's stand-in."""


class SlowedDetect(DetectConfig, Slowed):
    """Settings of the detector's stand-in."""


class SlowedSegment(SegmentConfig, Slowed):
    """Settings of the segmenter's stand-in."""


def _compute(stage: str, images: int, config: Slowed) -> None:
    time.sleep(images * gpu_s(stage) * config.slowdown)


class StandInCaptioner:
    """Captioner whose captions name things of the miniature world."""

    def __init__(self, config: SlowedCaption) -> None:
        self._config = config
        self._processor = BlipImageProcessor(size={"height": 224, "width": 224})
        self.input_px = input_px(self._processor)

    def prepare(self, image: NDArray[np.uint8]) -> Tensor:
        return prepare_pixels(self._processor, image)

    def caption(self, prepared: Sequence[Tensor]) -> list[str]:
        torch.stack(list(prepared))
        _compute("captions", len(prepared), self._config)
        return ["a dog, a cat, a house and a boat in front of a tree"] * len(prepared)


class StandInDetector:
    """Detector that finds boxes of random labels."""

    def __init__(self, config: SlowedDetect) -> None:
        self._config = config
        self._processor = GroundingDinoImageProcessor(size=PREPROCESSING)
        self.resizing = resizing_of(self._processor, config)
        writer = PromptWriter(_WORDS.tokenizer(), TOKENS)
        self._prompted = PromptedDetector(self._forward, writer, torch.device("cpu"), config)
        self._random = torch.Generator().manual_seed(0)

    def prepare(self, image: NDArray[np.uint8]) -> PreparedImage:
        return prepare_image(self._processor, image, self.resizing)

    def detect(self, prepared: Sequence[PreparedImage], labels: Sequence[Sequence[str]]) -> list[list[DetectedBox]]:
        return self._prompted.detect(prepared, labels)

    def _forward(self, pixels: Tensor, prompts: PromptBatch) -> tuple[Tensor, Tensor]:
        _compute("detections", len(pixels), self._config)
        logits = torch.full((len(pixels), QUERIES, TOKENS), -5.0)
        logits[:, :BOXES] = 1 + torch.rand((len(pixels), BOXES, TOKENS), generator=self._random)
        boxes = torch.full((len(pixels), QUERIES, 4), 0.35)
        places = torch.linspace(0.2, 0.8, BOXES)
        boxes[:, :BOXES, 0], boxes[:, :BOXES, 1] = places, places.flip(0)
        boxes[:, :BOXES, 2:] = 0.3
        return logits, boxes


@dataclass(frozen=True)
class DrawnMasks:
    """Ellipses in the boxes of an image, drawn one after the other."""

    image: SamImage
    boxes: NDArray[np.float32]

    def __iter__(self) -> Iterator[SegmentedBox]:
        for x0, y0, x1, y1 in self.boxes:
            mask = np.zeros((self.image.height_px, self.image.width_px), np.uint8)
            centre, axes = (int(x0 + x1) // 2, int(y0 + y1) // 2), (int(x1 - x0) // 2, int(y1 - y0) // 2)
            cv2.ellipse(mask, centre, axes, 0, 0, 360, 1, -1)
            yield SegmentedBox(mask.view(np.bool_), 0.9, 0.95)


class StandInSegmenter:
    """Segmenter of ellipses."""

    def __init__(self, config: SlowedSegment) -> None:
        self._config = config
        self._preprocessing = Preprocessing(side_px=1024)

    def prepare(self, image: NDArray[np.uint8]) -> SamImage:
        return self._preprocessing.prepare(image)

    def segment(
        self, prepared: Sequence[SamImage], boxes: Sequence[NDArray[np.float32]]
    ) -> Sequence[Iterable[SegmentedBox]]:
        for image in prepared:  # a GPU gets these copies, and normalises and pads them itself
            torch.tensor(image.pixels)
        _compute("entities", len(prepared), self._config)
        return [DrawnMasks(image, own) for image, own in zip(prepared, boxes, strict=True)]
