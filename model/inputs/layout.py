"""Where the subjects of a new image go: their boxes l and the masks that l_m overlays.

"The binary image can be specified by the user, detected automatically based on the user's personalized image, or just
randomly generated" (Sec. 3.3).

A model that was trained with the subjects' masks paints a filled box as a box-shaped tile. So a box is marked by an
outline: the subject's own, fitted into the box.
"""

import math
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import TypeVar

import numpy as np
import torch
from jaxtyping import Bool, Float

from model.config import LocationMask
from model.inputs.boxes import exact_box_masks

RelativeBox = tuple[float, float, float, float]
"""xyxy in [0, 1] of an image."""
Choice = TypeVar("Choice", bound=StrEnum)

WHOLE: RelativeBox = (0.0, 0.0, 1.0, 1.0)
MIN_AREA, MAX_AREA = 0.05, 0.7
"""Share of an image that a subject's box covers in training (App. B.1, rule 2)."""
_CENTRED_SIDE = 0.7
"""Longest side of a subject in the centre, as a share of the image. Choice: at .5, .6, .7 and .8 the small model's
R@1 of 60 things that no dataset has is .867, .883, .917 and .917; the share of right backgrounds is 1, 1, .983 and
.950."""


class Layout(StrEnum):
    GIVEN = "given"
    """Each subject has a box or a mask in the new image."""
    DETECTED = "detected"
    """Each subject goes where it is in its own picture, in its own outline."""
    RANDOM = "random"
    """Boxes are drawn, from left to right in the order of the subjects."""
    AUTO = "auto"
    """Given where there is a box or mask; else detected, if the subject is alone and its box is of a size that training
    knows; else centred in its proportions, several subjects from left to right."""


@dataclass(frozen=True)
class LayoutInput:
    """What is known of a subject's place before a layout is chosen.

    Raises:
        ValueError: a mask without a pixel, or a box that does not lie in the image.
    """

    label: str
    outline: Bool[np.ndarray, "h w"]
    """Mask of the subject in its own picture; at least one pixel."""
    box: RelativeBox | None = None
    """In the new image."""
    mask: Bool[np.ndarray, "mask_h mask_w"] | None = None
    """In the new image, at any resolution."""

    def __post_init__(self) -> None:
        if not self.outline.any():
            raise ValueError(f"the mask of the subject {self.label!r} is empty: mark its pixels in its picture")
        if self.mask is not None and not self.mask.any():
            raise ValueError(f"the mask that places {self.label!r} in the new image is empty: mark where it should go")
        if self.box is not None:
            parse_box(self.box, self.label)

    @property
    def has_place(self) -> bool:
        return self.box is not None or self.mask is not None


@dataclass(frozen=True)
class Place:
    """Where a subject goes."""

    box: RelativeBox
    """Box that was asked for, or that the layout chose."""
    bounds: RelativeBox
    """Box that the adapter receives: the bounds of the mark, or the given box where a mask was given with it."""
    mask: Float[np.ndarray, "side side"]
    """Share of each latent position that the subject covers, 0 to 1."""


def choose_places(
    inputs: Sequence[LayoutInput],
    layout: Layout | str,
    side: int,
    rng: np.random.Generator,
    marks: LocationMask | str = LocationMask.MASK,
) -> list[Place]:
    """One place per subject. A subject too small or too thin for any latent position gets the nearest, with a warning.

    Args:
        side: of the masks, in latent positions.
        marks: how a box is marked: `mask` by the subject's outline fitted into it, `box` as a whole.

    Raises:
        ValueError: a layout or a mark of another name, or `given` and a subject has neither box nor mask.
    """
    layout, marks = parse_choice(Layout, layout, "layout"), parse_choice(LocationMask, marks, "marks")
    count = len(inputs)
    boxes = _random_boxes(count, rng) if layout is Layout.RANDOM else _centred_boxes(count)
    placed = [_place(subject, layout, count, box, marks, side) for subject, box in zip(inputs, boxes, strict=True)]
    return [_with_a_mark(place, subject.label, marks) for place, subject in zip(placed, inputs, strict=True)]


def parse_choice(choices: type[Choice], value: Choice | str, setting: str) -> Choice:
    """The member of `choices` that `value` is or names.

    Raises:
        ValueError: there is none; the message lists those that there are.
    """
    if value not in list(choices):
        raise ValueError(f"{setting}={value!r}: choose one of {', '.join(repr(str(choice)) for choice in choices)}")
    return choices(value)


def parse_box(box: object, label: str) -> RelativeBox:
    """`box` as a tuple of four numbers.

    Raises:
        ValueError: it is not a box inside the image.
    """
    try:
        x0, y0, x1, y1 = map(float, np.asarray(box, np.float64))
    except (TypeError, ValueError):
        x0 = y0 = x1 = y1 = math.nan
    if not (0 <= x0 < x1 <= 1 and 0 <= y0 < y1 <= 1):
        raise ValueError(
            f"the box {box} of {label!r} does not lie in the image: give left, top, right, bottom as shares of the "
            f"new image, such as (0.1, 0.3, 0.5, 0.9)"
        )
    return (x0, y0, x1, y1)


def _place(
    subject: LayoutInput, layout: Layout, subjects: int, box: RelativeBox, marks: LocationMask, side: int
) -> Place:
    """The place of a subject; `box` is where it goes if nothing better is known."""
    if layout is Layout.GIVEN and not subject.has_place:
        raise ValueError(f"the subject {subject.label!r} has no box and no mask: give one, or choose layout 'auto'")
    if subject.has_place and layout in (Layout.GIVEN, Layout.AUTO):
        return _given(subject, marks, side)
    squared = _squared(subject.outline)
    if layout is Layout.DETECTED or (layout is Layout.AUTO and subjects == 1 and _has_known_size(squared)):
        return _masked(squared, _bounds(squared), side)
    return _boxed(subject, box, marks, side)


def _given(subject: LayoutInput, marks: LocationMask, side: int) -> Place:
    if subject.mask is not None:
        return _masked(subject.mask, subject.box or _bounds(subject.mask), side)
    assert subject.box is not None
    return _boxed(subject, subject.box, marks, side)


def _masked(mask: Bool[np.ndarray, "h w"], box: RelativeBox, side: int) -> Place:
    return Place(box, box, _shares(mask, WHOLE, side))


def _boxed(subject: LayoutInput, box: RelativeBox, marks: LocationMask, side: int) -> Place:
    if marks is LocationMask.BOX:
        return Place(box, box, _filled(box, side))
    outline = _cropped(subject.outline)
    bounds = _fitted(outline.shape, box)
    return Place(box, bounds, _shares(outline, bounds, side))


def _with_a_mark(place: Place, label: str, marks: LocationMask) -> Place:
    """`place`, changed where it could mark no latent position at all."""
    changed = _thickened(place) if marks is LocationMask.MASK else _widened(place)
    if changed is not place:
        side = len(place.mask)
        warnings.warn(
            f"{label!r} is too small or too thin at its place for the {side} x {side} positions of the latent: the "
            f"nearest are marked, and it may be lost; give a larger box or mask",
            stacklevel=2,
        )
    return changed


def _thickened(place: Place) -> Place:
    """With a mask that counts somewhere: l_m marks positions of which at least half is the subject's."""
    if place.mask.max() >= 0.5:
        return place
    return replace(place, mask=(place.mask >= place.mask.max() / 2).astype(np.float32))


def _widened(place: Place) -> Place:
    """With bounds of at least a position a side: narrower ones may lie between the points that boxes are filled by."""
    side = len(place.mask)
    x0, y0, x1, y1 = place.bounds
    (x0, x1), (y0, y1) = _widened_side(x0, x1, side), _widened_side(y0, y1, side)
    if place.bounds == (x0, y0, x1, y1):
        return place
    return replace(place, bounds=(x0, y0, x1, y1), mask=_filled((x0, y0, x1, y1), side))


def _widened_side(low: float, high: float, side: int) -> tuple[float, float]:
    if (high - low) * side >= 1:
        return low, high
    nearest = min(int((low + high) / 2 * side), side - 1)
    return nearest / side, (nearest + 1) / side


def _has_known_size(outline: Bool[np.ndarray, "h w"]) -> bool:
    x0, y0, x1, y1 = _bounds(outline)
    return MIN_AREA <= (x1 - x0) * (y1 - y0) <= MAX_AREA


def _squared(outline: Bool[np.ndarray, "h w"]) -> Bool[np.ndarray, "s s"]:
    """With margins, so that the subject keeps its proportions in a square image."""
    height, width = outline.shape
    longer = max(height, width)
    top, left = (longer - height) // 2, (longer - width) // 2
    return np.pad(outline, ((top, longer - height - top), (left, longer - width - left)))


def _cropped(outline: Bool[np.ndarray, "_h _w"]) -> Bool[np.ndarray, "h w"]:
    """The outline without margins."""
    rows, columns = np.flatnonzero(outline.any(axis=1)), np.flatnonzero(outline.any(axis=0))
    return outline[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]


def _fitted(shape: tuple[int, ...], box: RelativeBox) -> RelativeBox:
    """The largest box with the proportions of `shape` (height, width) in the middle of `box`."""
    x0, y0, x1, y1 = box
    height, width = shape
    scale = min((x1 - x0) / width, (y1 - y0) / height)
    side, rise = (x1 - x0 - scale * width) / 2, (y1 - y0 - scale * height) / 2
    return (x0 + side, y0 + rise, x1 - side, y1 - rise)


def _bounds(mask: Bool[np.ndarray, "h w"]) -> RelativeBox:
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    height, width = mask.shape
    return (
        float(columns[0] / width),
        float(rows[0] / height),
        float((columns[-1] + 1) / width),
        float((rows[-1] + 1) / height),
    )


def _shares(mask: Bool[np.ndarray, "h w"], box: RelativeBox, side: int) -> Float[np.ndarray, "side side"]:
    """The share of each of `side` x `side` positions that the mask covers where it fills `box`."""
    x0, y0, x1, y1 = box
    height, width = mask.shape
    rows, columns = _overlaps(y0, y1, height, side), _overlaps(x0, x1, width, side)
    return np.asarray(rows @ mask.astype(np.float32) @ columns.T)


def _overlaps(low: float, high: float, pixels: int, side: int) -> Float[np.ndarray, "{side} {pixels}"]:
    """The share of each position that each pixel covers, along one axis where the pixels reach from `low` to `high`."""
    edges = np.linspace(low, high, pixels + 1) * side
    positions = np.arange(side)[:, None]
    covered = np.minimum(edges[1:], positions + 1) - np.maximum(edges[:-1], positions)
    return covered.clip(0).astype(np.float32)


def _filled(box: RelativeBox, side: int) -> Float[np.ndarray, "side side"]:
    boxes = torch.tensor([[box]], dtype=torch.float32)
    region: Float[np.ndarray, "side side"] = exact_box_masks(boxes, (side, side))[0, 0].numpy()
    return region


def _centred_boxes(count: int) -> list[RelativeBox]:
    """Beside each other, each in the middle of its strip of the image."""
    width = min(_CENTRED_SIDE, 0.9 / max(count, 1))
    top = (1 - _CENTRED_SIDE) / 2
    middles = [(index + 0.5) / count for index in range(count)]
    return [(middle - width / 2, top, middle + width / 2, 1 - top) for middle in middles]


def _random_boxes(count: int, rng: np.random.Generator) -> list[RelativeBox]:
    """Beside each other, so that none covers another. Choice: sides as the released code draws them for one subject."""
    strips = [(index / count, (index + 1) / count) for index in range(count)]
    return [_random_box(left, right, rng) for left, right in strips]


def _random_box(left: float, right: float, rng: np.random.Generator) -> RelativeBox:
    """In the strip of the image between `left` and `right`."""
    width = min(right - left, 0.7) * rng.uniform(0.6, 0.8)
    height = 0.7 * rng.uniform(0.6, 0.8)
    x0, y0 = rng.uniform(left, right - width), rng.uniform(0.0, 1.0 - height)
    return (x0, y0, x0 + width, y0 + height)
