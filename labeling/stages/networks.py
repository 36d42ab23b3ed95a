"""Interfaces of the networks that stages call. `labeling.backends` implements them.

`Prepared` is the type of a backend's preprocessed images.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from labeling.stages.base import Failure

Prepared = TypeVar("Prepared")


class Captioner(Protocol[Prepared]):
    """Network that describes images."""

    @property
    def input_px(self) -> int | None:
        """Longer side, in pixels, of what `prepare` makes of any image; None if it depends on the image."""

    def prepare(self, image: NDArray[np.uint8]) -> Prepared:
        """Prepare an upright RGB image [H, W, 3] for the network. Runs on the CPU; thread-safe."""

    def caption(self, prepared: Sequence[Prepared]) -> Sequence[str | Failure]:
        """Return one caption per prepared image, or why there is none."""


@dataclass(frozen=True, slots=True)
class NounPhrase:
    """A noun of a caption. Positions are offsets in the caption, in characters."""

    start: int
    """Offset of the first character."""
    noun_start: int
    """Offset of the first noun, after any adjectives."""
    end: int
    """Offset just past the last character."""
    singular: str
    """The phrase in lower case, its last word in the singular: "fire hydrant"."""


class Tagger(Protocol):
    """Part-of-speech tagger."""

    def nouns(self, captions: Sequence[str]) -> list[list[NounPhrase]]:
        """Return all nouns of each caption, in caption order."""


@dataclass(frozen=True, slots=True)
class DetectedBox:
    """One box of one label."""

    label_index: int
    """Index of its label among the requested labels."""
    score: float
    """Score of the label's own tokens, 0 to 1."""
    box: tuple[float, float, float, float]
    """x0, y0, x1, y1 in pixels of the upright image, clipped to it."""


class SizedRow(Protocol):
    """A row with the size of its image."""

    @property
    def width_px(self) -> int:
        """Width of the upright image."""

    @property
    def height_px(self) -> int:
        """Height of the upright image."""


@dataclass(frozen=True, slots=True)
class Resizing:
    """Resizing of images that keeps their proportions, as by DETR: to a shorter side, but not beyond a longer one."""

    shortest_px: int
    """Shorter side after resizing, if the longer one allows it."""
    longest_px: int
    """Limit of the longer side."""
    step_px: int = 1
    """Step to which the other side is rounded; 1 keeps the proportions."""

    def __call__(self, row: SizedRow) -> tuple[int, int]:
        """Return height and width of a row's image after resizing."""
        return self.size_of(row.height_px, row.width_px)

    def size_of(self, height_px: int, width_px: int) -> tuple[int, int]:
        """Return height and width after resizing; with a step of 1, those of transformers and of DETR."""
        short, long = sorted((height_px, width_px))
        limited = self.longest_px * short / long
        if long / short * self.shortest_px > self.longest_px:
            own = round(limited), long if round(limited) == short else int(limited * long / short)
            stepped = self._in_steps(limited, 1, self.shortest_px), self.longest_px
        else:
            own = self.shortest_px, int(self.shortest_px * long / short)
            stepped = self.shortest_px, self._in_steps(own[1], self.shortest_px, self.longest_px)
        sides = own if self.step_px == 1 else stepped
        return sides if height_px <= width_px else (sides[1], sides[0])

    def _in_steps(self, side: float, least: int, most: int) -> int:
        return min(max(round(side / self.step_px) * self.step_px, least), most)


class Detector(Protocol[Prepared]):
    """Open-vocabulary detector."""

    @property
    def resizing(self) -> Resizing | None:
        """How `prepare` resizes images, of which those of one size are detected together; None if all have one size."""

    def prepare(self, image: NDArray[np.uint8]) -> Prepared:
        """Prepare an upright RGB image [H, W, 3] for the network, with its size. Runs on the CPU; thread-safe."""

    def detect(self, prepared: Sequence[Prepared], labels: Sequence[Sequence[str]]) -> list[list[DetectedBox]]:
        """Return the boxes of each image's labels, best first; thresholds and NMS are the backend's settings."""


class ImageEmbedder(Protocol[Prepared]):
    """Network whose embeddings of similar images are close."""

    def prepare(self, image: NDArray[np.uint8]) -> Prepared:
        """Prepare an upright RGB image [H, W, 3] for the network. Runs on the CPU; thread-safe."""

    def embed(self, prepared: Sequence[Prepared]) -> NDArray[np.float32]:
        """Return the embedding of each prepared image, [n, D], of length 1."""


@dataclass(frozen=True, slots=True)
class SegmentedBox:
    """The mask of one box."""

    mask: NDArray[np.bool_]
    """Mask [H, W] of the upright image."""
    predicted_iou: float
    """The network's own estimate of the mask's IoU."""
    stability: float
    """IoU of the masks at logit +1 and -1."""


class Segmenter(Protocol[Prepared]):
    """Network that turns boxes into masks."""

    def prepare(self, image: NDArray[np.uint8]) -> Prepared:
        """Prepare an upright RGB image [H, W, 3] for the network, with its size. Runs on the CPU; thread-safe."""

    def segment(
        self, prepared: Sequence[Prepared], boxes: Sequence[NDArray[np.float32]]
    ) -> Sequence[Iterable[SegmentedBox]]:
        """Run the network; return one mask per box of each image.

        The masks of an image may be made while they are iterated over, in any thread.

        Args:
            prepared: images.
            boxes: boxes [n, 4] of each image as x0, y0, x1, y1 in pixels of the upright image; n may be 0.
        """
