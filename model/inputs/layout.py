"""Choose where the subjects of a new image go: their boxes and the masks that make up the location mask.

"The binary image can be specified by the user, detected automatically based on the user's personalized image, or just
randomly generated" (Sec. 3.3).

A model that was trained with the subjects' masks paints a filled box as a box-shaped tile. By default a box is
therefore marked by the subject's own outline, fitted into the box.
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

Size = tuple[int, int]
"""Rows and columns of a latent."""
RelativeBox = tuple[float, float, float, float]
"""Left, top, right, bottom as shares of an image, 0 to 1."""
Choice = TypeVar("Choice", bound=StrEnum)

WHOLE_IMAGE: RelativeBox = (0.0, 0.0, 1.0, 1.0)
MIN_AREA, MAX_AREA = 0.05, 0.7
"""Smallest and largest share of an image that a subject's box covers in training (App. B.1, rule 2)."""
_CENTRED_SIDE = 0.7
"""Longest side of a subject in the centre, as a share of the image. Choice: at .5, .6, .7 and .8 the small model's
R@1 on 60 objects that are in no dataset is .867, .883, .917 and .917; its share of correct backgrounds is 1, 1, .983
and .950."""


class Layout(StrEnum):
    """Rule that places the subjects of a new image."""

    GIVEN = "given"
    """Each subject has a box or a mask in the new image."""
    DETECTED = "detected"
    """Each subject keeps the place and outline that it has in its own picture."""
    RANDOM = "random"
    """Random boxes, from left to right in the order of the subjects."""
    FREE = "free"
    """No place: the model chooses. For models that were trained with unmarked subjects
    (`model.departures.location_shapes.nothing`)."""
    AUTO = "auto"
    """`given` for a subject with a box or mask; otherwise `detected`, if it is the only subject and its box has a size
    that occurs in training; otherwise centred in its proportions, several subjects from left to right."""


@dataclass(frozen=True)
class LayoutInput:
    """A subject as the layout receives it, before it has a place.

    Raises:
        ValueError: a mask is empty, or the box does not lie in the image.
    """

    label: str
    """Label in messages."""
    outline: Bool[np.ndarray, "h w"]
    """Mask of the subject in its own picture; at least one pixel."""
    box: RelativeBox | None = None
    """Requested box in the new image."""
    mask: Bool[np.ndarray, "mask_h mask_w"] | None = None
    """Requested mask in the new image, at any resolution."""

    def __post_init__(self) -> None:
        if not self.outline.any():
            raise ValueError(f"the mask of the subject {self.label!r} is empty: mark its pixels in its picture")
        if self.mask is not None and not self.mask.any():
            raise ValueError(f"the mask that places {self.label!r} in the new image is empty: mark where it should go")
        if self.box is not None:
            parse_box(self.box, self.label)

    @property
    def has_place(self) -> bool:
        """True if a box or a mask was requested."""
        return self.box is not None or self.mask is not None


@dataclass(frozen=True)
class Place:
    """Place of a subject in the new image."""

    box: RelativeBox
    """Box that was requested, or that the layout chose; the whole image for a subject without a place."""
    bounds: RelativeBox
    """Box for the adapter: the bounds of `mask`, or the requested box if a mask was requested along with it."""
    mask: Float[np.ndarray, "H W"]
    """Share of each latent position that the subject covers, 0 to 1; all zeros for a subject without a place."""


def choose_places(
    inputs: Sequence[LayoutInput],
    layout: Layout | str,
    size: Size,
    rng: np.random.Generator,
    marks: LocationMask | str = LocationMask.MASK,
) -> list[Place]:
    """Choose one place per subject.

    For a subject too small or too thin to mark a latent position, the nearest ones are marked, with a warning.

    Args:
        inputs: the subjects.
        layout: a `Layout` or its name.
        size: rows and columns of the masks, in latent positions.
        rng: source of random boxes.
        marks: how a box is marked: `mask` by the subject's outline fitted into it, `box` as a whole.

    Raises:
        ValueError: `layout` or `marks` is unknown, or `layout` is `given` and a subject has neither box nor mask.
    """
    layout, marks = parse_choice(Layout, layout, "layout"), parse_choice(LocationMask, marks, "marks")
    count = len(inputs)
    boxes = _random_boxes(count, rng) if layout is Layout.RANDOM else _centred_boxes(count)
    places = [_place(subject, layout, count, box, marks, size) for subject, box in zip(inputs, boxes, strict=True)]
    return [
        place if layout is Layout.FREE and not subject.has_place else _ensure_marked(place, subject.label, marks)
        for place, subject in zip(places, inputs, strict=True)
    ]


def parse_choice(choices: type[Choice], value: Choice | str, setting: str) -> Choice:
    """Return the member of `choices` that `value` is or names.

    Raises:
        ValueError: `value` names no member; the message lists the members.
    """
    if value not in list(choices):
        raise ValueError(f"{setting}={value!r}: choose one of {', '.join(repr(str(choice)) for choice in choices)}")
    return choices(value)


def parse_box(box: object, label: str) -> RelativeBox:
    """Return `box` as a tuple of four numbers.

    Raises:
        ValueError: `box` is not a box inside the image.
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
    subject: LayoutInput, layout: Layout, subjects: int, box: RelativeBox, marks: LocationMask, size: Size
) -> Place:
    """Place one subject; `box` is used if neither the subject nor the layout determines a place."""
    if layout is Layout.GIVEN and not subject.has_place:
        raise ValueError(f"the subject {subject.label!r} has no box and no mask: give one, or choose layout 'auto'")
    if subject.has_place and layout in (Layout.GIVEN, Layout.FREE, Layout.AUTO):
        return _place_as_requested(subject, marks, size)
    if layout is Layout.FREE:
        return Place(WHOLE_IMAGE, WHOLE_IMAGE, np.zeros(size, np.float32))
    padded = _pad_to_proportions(subject.outline, size)
    if layout is Layout.DETECTED or (layout is Layout.AUTO and subjects == 1 and _has_known_size(padded)):
        return _place_mask(padded, mask_bounds(padded), size)
    return _place_in_box(subject, box, marks, size)


def _place_as_requested(subject: LayoutInput, marks: LocationMask, size: Size) -> Place:
    if subject.mask is not None:
        return _place_mask(subject.mask, subject.box or mask_bounds(subject.mask), size)
    assert subject.box is not None
    return _place_in_box(subject, subject.box, marks, size)


def _place_mask(mask: Bool[np.ndarray, "h w"], box: RelativeBox, size: Size) -> Place:
    return Place(box, box, _coverage(mask, WHOLE_IMAGE, size))


def _place_in_box(subject: LayoutInput, box: RelativeBox, marks: LocationMask, size: Size) -> Place:
    if marks is LocationMask.BOX:
        return Place(box, box, _fill(box, size))
    outline = _crop(subject.outline)
    bounds = _fit(outline.shape, box, size)
    return Place(box, bounds, _coverage(outline, bounds, size))


def _ensure_marked(place: Place, label: str, marks: LocationMask) -> Place:
    """Return `place`, enlarged if it would mark no latent position at all."""
    changed = _thicken(place) if marks is LocationMask.MASK else _widen(place)
    if changed is not place:
        height, width = place.mask.shape
        warnings.warn(
            f"{label!r} is too small or too thin at its place for the {width} x {height} positions of the latent: the "
            f"nearest are marked, and the subject may be lost; give a larger box or mask",
            stacklevel=2,
        )
    return changed


def _thicken(place: Place) -> Place:
    """Mark the positions with most of the subject, if it fills at least half of none; l_m counts only those filled."""
    if place.mask.max() >= 0.5:
        return place
    return replace(place, mask=(place.mask >= place.mask.max() / 2).astype(np.float32))


def _widen(place: Place) -> Place:
    """Widen bounds to at least one position a side; narrower ones may contain the centre of no position."""
    height, width = place.mask.shape
    x0, y0, x1, y1 = place.bounds
    (x0, x1), (y0, y1) = _widen_interval(x0, x1, width), _widen_interval(y0, y1, height)
    if place.bounds == (x0, y0, x1, y1):
        return place
    return replace(place, bounds=(x0, y0, x1, y1), mask=_fill((x0, y0, x1, y1), (height, width)))


def _widen_interval(low: float, high: float, positions: int) -> tuple[float, float]:
    if (high - low) * positions >= 1:
        return low, high
    nearest = min(int((low + high) / 2 * positions), positions - 1)
    return nearest / positions, (nearest + 1) / positions


def _has_known_size(outline: Bool[np.ndarray, "h w"]) -> bool:
    x0, y0, x1, y1 = mask_bounds(outline)
    return MIN_AREA <= (x1 - x0) * (y1 - y0) <= MAX_AREA


def _pad_to_proportions(outline: Bool[np.ndarray, "h w"], size: Size) -> Bool[np.ndarray, "_h _w"]:
    """Add margins that give the outline the proportions of the new image, which keeps those of the subject."""
    height, width = outline.shape
    rows, columns = max(height, -(-width * size[0] // size[1])), max(width, -(-height * size[1] // size[0]))
    top, left = (rows - height) // 2, (columns - width) // 2
    return np.pad(outline, ((top, rows - height - top), (left, columns - width - left)))


def _crop(outline: Bool[np.ndarray, "_h _w"]) -> Bool[np.ndarray, "h w"]:
    """Return the outline without its empty margins."""
    rows, columns = np.flatnonzero(outline.any(axis=1)), np.flatnonzero(outline.any(axis=0))
    return outline[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]


def _fit(shape: tuple[int, ...], box: RelativeBox, size: Size) -> RelativeBox:
    """Return the largest box with the proportions of `shape` (height, width) in the middle of `box`."""
    x0, y0, x1, y1 = box
    height, width = shape[0] / size[0], shape[1] / size[1]
    scale = min((x1 - x0) / width, (y1 - y0) / height)
    side, rise = (x1 - x0 - scale * width) / 2, (y1 - y0 - scale * height) / 2
    return (x0 + side, y0 + rise, x1 - side, y1 - rise)


def mask_bounds(mask: Bool[np.ndarray, "h w"]) -> RelativeBox:
    """Return the bounds of a mask, which must not be empty."""
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    height, width = mask.shape
    return (
        float(columns[0] / width),
        float(rows[0] / height),
        float((columns[-1] + 1) / width),
        float((rows[-1] + 1) / height),
    )


def _coverage(mask: Bool[np.ndarray, "h w"], box: RelativeBox, size: Size) -> Float[np.ndarray, "H W"]:
    """Return the share of each latent position that the mask covers when it is stretched to `box`."""
    x0, y0, x1, y1 = box
    height, width = mask.shape
    rows, columns = _overlaps(y0, y1, height, size[0]), _overlaps(x0, x1, width, size[1])
    return np.asarray(rows @ mask.astype(np.float32) @ columns.T)


def _overlaps(low: float, high: float, pixels: int, count: int) -> Float[np.ndarray, "{count} {pixels}"]:
    """Return the share of each of `count` positions that each pixel covers, with pixels from `low` to `high`."""
    edges = np.linspace(low, high, pixels + 1) * count
    positions = np.arange(count)[:, None]
    covered = np.minimum(edges[1:], positions + 1) - np.maximum(edges[:-1], positions)
    return covered.clip(0).astype(np.float32)


def _fill(box: RelativeBox, size: Size) -> Float[np.ndarray, "H W"]:
    boxes = torch.tensor([[box]], dtype=torch.float32)
    region: Float[np.ndarray, "H W"] = exact_box_masks(boxes, size)[0, 0].numpy()
    return region


def _centred_boxes(count: int) -> list[RelativeBox]:
    """Return boxes beside each other, each in the middle of its vertical strip of the image."""
    width = min(_CENTRED_SIDE, 0.9 / max(count, 1))
    top = (1 - _CENTRED_SIDE) / 2
    middles = [(index + 0.5) / count for index in range(count)]
    return [(middle - width / 2, top, middle + width / 2, 1 - top) for middle in middles]


def _random_boxes(count: int, rng: np.random.Generator) -> list[RelativeBox]:
    """Draw boxes beside each other, without overlap.

    Choice: sides are drawn as the released code draws them for one subject.
    """
    strips = [(index / count, (index + 1) / count) for index in range(count)]
    return [_random_box(left, right, rng) for left, right in strips]


def _random_box(left: float, right: float, rng: np.random.Generator) -> RelativeBox:
    """Draw a box in the vertical strip of the image between `left` and `right`."""
    width = min(right - left, 0.7) * rng.uniform(0.6, 0.8)
    height = 0.7 * rng.uniform(0.6, 0.8)
    x0, y0 = rng.uniform(left, right - width), rng.uniform(0.0, 1.0 - height)
    return (x0, y0, x0 + width, y0 + height)
