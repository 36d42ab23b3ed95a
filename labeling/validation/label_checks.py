"""Checks of nouns, boxes, masks and scores. The name of a function is the name of the check.

A mask may extend beyond its box: the segmenter does not clip it, and rule 6 compares whole areas. So masks are checked
against their bounds and the image.
"""

import math
import sys
from collections.abc import Callable, Iterator, Mapping

from labeling.sdd.arrow import row_of
from labeling.sdd.masks import decode_crop, run_lengths
from labeling.sdd.schema import (
    Box,
    Candidate,
    Detection,
    Entity,
    JudgedCandidate,
    Layer,
    Mask,
    Noun,
    OverlookedBox,
    Segment,
)
from labeling.validation.contents import Label, Masked, ShardContents
from labeling.validation.faults import Fault

LabelCheck = Callable[[ShardContents], Iterator[Fault]]
_LARGEST = sys.float_info.max
"""Largest finite number."""


def spans_in_caption(shard: ShardContents) -> Iterator[Fault]:
    """Check that the span of a label is inside the caption, and not empty unless the caption is."""
    for label in shard.labels:
        if isinstance(label.value, JudgedCandidate | OverlookedBox) or label.caption is None:
            continue
        start, end, length = label.value.span_start, label.value.span_end, len(label.caption)
        if not (0 <= start <= end <= length and (start < end or not length)):
            yield label.fault("span_start", f"the span {start}..{end} is not inside the {length} characters")


def detections_of_nouns(shard: ShardContents) -> Iterator[Fault]:
    """Check that a detection has label and span of a noun of its image."""
    nouns = {(label.key, _span(label.value)) for label in shard.labels if isinstance(label.value, Noun)}
    for label in shard.labels if Layer.NOUNS in shard.files else ():
        if isinstance(label.value, Detection) and (label.key, _span(label.value)) not in nouns:
            yield label.fault("label", f"{label.value.label!r} with its span is no noun of the image in {Layer.NOUNS}/")


def boxes_in_image(shard: ShardContents) -> Iterator[Fault]:
    """Check that the sides of a box are numbers in order, inside the image."""
    for label in shard.labels:
        if isinstance(label.value, Noun):
            continue
        box = label.value.box
        width, height = label.size or (math.inf, math.inf)
        if not (0 <= box.x0 <= box.x1 <= width and 0 <= box.y0 <= box.y1 <= height):
            yield label.fault("box", f"{_text(box)} is not inside the image of {width}x{height} px")


def masks_in_image(shard: ShardContents) -> Iterator[Fault]:
    """Check that the bounds of a mask are inside the image."""
    for masked in shard.masks:
        mask, (width, height) = masked.mask, masked.size or (math.inf, math.inf)
        right, bottom = mask.x0 + mask.width_px, mask.y0 + mask.height_px
        if not (0 <= mask.x0 < right <= width and 0 <= mask.y0 < bottom <= height):
            bounds = f"the bounds {mask.x0}, {mask.y0}, {right}, {bottom}"
            yield masked.fault(f"{bounds} are not inside the image of {width}x{height} px")


def run_lengths_of_masks(shard: ShardContents) -> Iterator[Fault]:
    """Check that the run lengths of a mask cover its bounds exactly."""
    for masked in shard.masks:
        mask, pixels = masked.mask, _pixels_of_runs(masked.mask)
        if pixels is None:
            yield masked.fault("the run lengths are damaged")
        elif pixels != mask.width_px * mask.height_px:
            yield masked.fault(f"the run lengths have {pixels} pixels, the bounds {mask.width_px}x{mask.height_px}")


def tight_bounds(shard: ShardContents) -> Iterator[Fault]:
    """Check that a mask touches all four sides of its bounds."""
    for masked in _decodable(shard):
        crop = decode_crop(masked.mask)
        sides = {"left": crop[:, :1], "right": crop[:, -1:], "upper": crop[:1], "lower": crop[-1:]}
        if empty := [name for name, pixels in sides.items() if not pixels.any()]:
            yield masked.fault(f"no pixel is at the {' and '.join(empty)} side of the bounds")


def areas(shard: ShardContents) -> Iterator[Fault]:
    """Check that the area of a mask is the number of its pixels."""
    for masked in _decodable(shard):
        pixels = int(run_lengths(masked.mask.counts)[1::2].sum())
        if masked.stored.area_px not in (None, pixels):
            yield masked.area_fault(f"is {masked.stored.area_px}, but the mask has {pixels} pixels")


def scores(shard: ShardContents) -> Iterator[Fault]:
    """Check that scores and stabilities are 0 to 1; mask fills and predicted IoUs, which may exceed 1, are numbers."""
    for label in shard.labels:
        for column, (value, low, high) in _ranges(label.value).items():
            if value is not None and not low <= value <= high:
                limits = f"between {low:g} and {high:g}" if high <= 1 else "a number" if low < 0 else "0 or more"
                yield label.fault(column, f"{value:g} is not {limits}")


def entities_of_row(shard: ShardContents) -> Iterator[Fault]:
    """Check that a row of sdd/ has an entity at least, the largest box first."""
    file = shard.files.get(Layer.SDD)
    for row, record in enumerate(file.records if file else ()):
        assert file is not None
        boxes = [row_of(Box, entity["box"]).area_px for entity in record["entities"]]
        if not boxes:
            yield file.fault("is empty", row, "entities")
        elif boxes != sorted(boxes, reverse=True):
            yield file.fault("is not in the order of box areas", row, "entities")


def _span(value: Noun | Detection) -> tuple[str, int, int]:
    return value.label, value.span_start, value.span_end


def _decodable(shard: ShardContents) -> Iterator[Masked]:
    """Yield the masks whose run lengths cover their bounds."""
    for masked in shard.masks:
        if _pixels_of_runs(masked.mask) == masked.mask.width_px * masked.mask.height_px > 0:
            yield masked


def _pixels_of_runs(mask: Mask) -> int | None:
    """Return the number of pixels that the run lengths cover; None if they are damaged."""
    try:
        runs = run_lengths(mask.counts)
    except (IndexError, ValueError):
        return None
    return int(runs.sum()) if runs.size and int(runs.min()) >= 0 else None


def _ranges(value: Label) -> Mapping[str, tuple[float | None, float, float]]:
    """Return the numbers of a label with their lowest and highest value, by column."""
    match value:
        case Noun():
            return {}
        case Detection() | OverlookedBox():
            return {"score": (value.score, 0, 1)}
        case Candidate():
            return {"score": (value.score, 0, 1)} | _ranges_of_segmenter(value.segment, "segment.")
        case Entity():
            return {"score": (value.score, 0, 1)} | _ranges_of_segmenter(value)
        case JudgedCandidate():
            fill = (value.mask_fill, 0, _LARGEST)
            return {"score": (value.score, 0, 1), "mask_fill": fill} | _ranges_of_segmenter(value)


def _ranges_of_segmenter(
    value: Segment | Entity | JudgedCandidate | None, prefix: str = ""
) -> dict[str, tuple[float | None, float, float]]:
    if value is None:
        return {}
    return {
        f"{prefix}predicted_iou": (value.predicted_iou, -_LARGEST, _LARGEST),
        f"{prefix}stability": (value.stability, 0, 1),
    }


def _text(box: Box) -> str:
    return f"{box.x0:g}, {box.y0:g}, {box.x1:g}, {box.y1:g}"


LABEL_CHECKS: tuple[LabelCheck, ...] = (
    spans_in_caption,
    detections_of_nouns,
    boxes_in_image,
    masks_in_image,
    run_lengths_of_masks,
    tight_bounds,
    areas,
    scores,
    entities_of_row,
)
"""Checks of the labels of a shard."""
