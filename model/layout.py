"""Where the subjects of a new image go: their boxes l and the masks that l_m overlays.

"The binary image can be specified by the user, detected automatically based on the user's personalized image, or just
randomly generated" (Sec. 3.3).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

import cv2
import numpy as np
import torch
from jaxtyping import Bool, Float

from model.location import filled

BoxShare = tuple[float, float, float, float]
"""xyxy in [0, 1] of an image."""

MIN_AREA, MAX_AREA = 0.05, 0.7
"""Share of an image that a subject's box covers in training (App. B.1, rule 2)."""


class Layout(StrEnum):
    GIVEN = "given"
    """Each subject has a box or a mask in the new image."""
    DETECTED = "detected"
    """Each subject goes where it is in its own picture, in its own outline."""
    RANDOM = "random"
    """Boxes are drawn, from left to right in the order of the subjects."""
    AUTO = "auto"
    """Given where there is a box or mask; else detected, if the subject is alone and its box is of a size that training
    knows; else random."""


@dataclass(frozen=True)
class Wish:
    """What is known of a subject's place before a layout is chosen.

    Raises:
        ValueError: a mask without a pixel, or a box that is none.
    """

    label: str
    outline: Bool[np.ndarray, "h w"]
    """Of the subject, in its own picture; at least one pixel."""
    box: BoxShare | None = None
    """In the new image."""
    mask: Bool[np.ndarray, "mask_h mask_w"] | None = None
    """In the new image, at any resolution."""

    def __post_init__(self) -> None:
        if not self.outline.any():
            raise ValueError(f"the mask of the subject {self.label!r} is empty: nothing of its picture is the subject")
        if self.mask is not None and not self.mask.any():
            raise ValueError(f"the mask that places {self.label!r} in the new image is empty: mark where it should go")
        if self.box is not None and not _is_box(self.box):
            raise ValueError(
                f"the box {self.box} of {self.label!r} is none: give left, top, right, bottom as shares of the new "
                f"image, such as (0.1, 0.3, 0.5, 0.9)"
            )


@dataclass(frozen=True)
class Place:
    """Where a subject goes, as the two forms that the network takes."""

    box: BoxShare
    mask: Float[np.ndarray, "side side"]
    """How much of each position is the subject's, 0 to 1."""


def places(wishes: Sequence[Wish], layout: Layout, side: int, rng: np.random.Generator) -> list[Place]:
    """One place per subject.

    Args:
        side: of the masks, in latent positions.

    Raises:
        ValueError: `given` was asked for, and a subject has neither box nor mask.
    """
    drawn = _random_boxes(len(wishes), rng)
    return [_place(wish, layout, len(wishes), box, side) for wish, box in zip(wishes, drawn, strict=True)]


def _place(wish: Wish, layout: Layout, subjects: int, drawn: BoxShare, side: int) -> Place:
    has_place = wish.box is not None or wish.mask is not None
    if layout is Layout.GIVEN and not has_place:
        raise ValueError(f"the subject {wish.label!r} has no box and no mask: give one, or choose layout 'auto'")
    if has_place and layout in (Layout.GIVEN, Layout.AUTO):
        return _given(wish, side)
    if layout is Layout.DETECTED or (layout is Layout.AUTO and subjects == 1 and _fits(_squared(wish.outline))):
        return _outlined(_squared(wish.outline), side)
    return Place(drawn, _filled(drawn, side))


def _given(wish: Wish, side: int) -> Place:
    if wish.mask is not None:
        return Place(wish.box or _bounds(wish.mask), _shares(wish.mask, side))
    assert wish.box is not None
    return Place(wish.box, _filled(wish.box, side))


def _outlined(outline: Bool[np.ndarray, "h w"], side: int) -> Place:
    return Place(_bounds(outline), _shares(outline, side))


def _is_box(box: BoxShare) -> bool:
    x0, y0, x1, y1 = box
    return 0 <= x0 < x1 <= 1 and 0 <= y0 < y1 <= 1


def _fits(outline: Bool[np.ndarray, "h w"]) -> bool:
    x0, y0, x1, y1 = _bounds(outline)
    return MIN_AREA <= (x1 - x0) * (y1 - y0) <= MAX_AREA


def _squared(outline: Bool[np.ndarray, "h w"]) -> Bool[np.ndarray, "s s"]:
    """With margins, so that the subject keeps its proportions in a square image."""
    height, width = outline.shape
    longer = max(height, width)
    top, left = (longer - height) // 2, (longer - width) // 2
    return np.pad(outline, ((top, longer - height - top), (left, longer - width - left)))


def _bounds(mask: Bool[np.ndarray, "h w"]) -> BoxShare:
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    height, width = mask.shape
    return (
        float(columns[0] / width),
        float(rows[0] / height),
        float((columns[-1] + 1) / width),
        float((rows[-1] + 1) / height),
    )


def _shares(mask: Bool[np.ndarray, "h w"], side: int) -> Float[np.ndarray, "side side"]:
    shrinks = min(mask.shape) >= side
    method = cv2.INTER_AREA if shrinks else cv2.INTER_NEAREST
    return np.asarray(cv2.resize(mask.astype(np.float32), (side, side), interpolation=method))


def _filled(box: BoxShare, side: int) -> Float[np.ndarray, "side side"]:
    boxes = torch.tensor([[box]], dtype=torch.float32)
    region: Float[np.ndarray, "side side"] = filled(boxes, (side, side))[0, 0].numpy()
    return region


def _random_boxes(count: int, rng: np.random.Generator) -> list[BoxShare]:
    """Beside each other, so that none covers another. Choice: sides as the released code draws them for one subject."""
    strips = [(index / count, (index + 1) / count) for index in range(count)]
    return [_random_box(left, right, rng) for left, right in strips]


def _random_box(left: float, right: float, rng: np.random.Generator) -> BoxShare:
    """In the strip of the image between `left` and `right`."""
    width = min(right - left, 0.7) * rng.uniform(0.6, 0.8)
    height = 0.7 * rng.uniform(0.6, 0.8)
    x0, y0 = rng.uniform(left, right - width), rng.uniform(0.0, 1.0 - height)
    return (x0, y0, x0 + width, y0 + height)
