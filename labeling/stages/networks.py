"""What the stages ask of the networks that work for them; `labeling.backends` has those that answer."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray


class Captioner(Protocol):
    """A network that says what is in a picture."""

    def prepare(self, image: NDArray[np.uint8]) -> Any:
        """Upright RGB [H, W, 3] as the network wants it; CPU, thread-safe."""

    def caption(self, prepared: Sequence[Any]) -> list[str]:
        """One caption per prepared image."""


@dataclass(frozen=True, slots=True)
class NounPhrase:
    """A noun of a caption, as a tagger finds it. Places are offsets in the caption, in characters."""

    start: int
    noun_start: int
    """Where the nouns at its end begin: after its adjectives, where it has any."""
    end: int
    """Just past its last character."""
    singular: str
    """The phrase in lower case, its last word in the singular: "fire hydrant"."""


class Tagger(Protocol):
    """A part-of-speech tagger."""

    def nouns(self, captions: Sequence[str]) -> list[list[NounPhrase]]:
        """All nouns of each caption, in caption order."""


@dataclass(frozen=True, slots=True)
class DetectedBox:
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

    def detect(self, prepared: Sequence[Any], labels: Sequence[Sequence[str]]) -> list[list[DetectedBox]]:
        """For each image the boxes of its labels, best first; thresholds and NMS are the backend's settings."""


@dataclass(frozen=True, slots=True)
class SegmentedBox:
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

    def segment(self, prepared: Sequence[Any], boxes: Sequence[NDArray[np.float32]]) -> list[list[SegmentedBox]]:
        """For each image one mask per box of its [n, 4] xyxy boxes in pixels of the upright image; n may be 0."""
