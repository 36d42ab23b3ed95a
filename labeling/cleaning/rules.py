"""The cleaning rules, which go beyond App. B.1. All are off by default: see `labeling.config.CleanConfig`.

As in `labeling.rules`, the name of a function is the name of the rule in the ledger. `IMAGE_RULES` judge a whole image,
`ENTITY_RULES` one candidate, by itself, and `CONFIRMATION_RULES` one candidate by what a second detector found. A rule
about a mask does not judge a candidate without one.
"""

from collections.abc import Sequence
from ctypes import c_float
from typing import Protocol

from labeling.config import CleanConfig
from labeling.sdd.schema import Box, Candidate, Confirmation, Mask, Segment


class CaptionedImage(Protocol):
    """An image with the columns that the rules read."""

    @property
    def caption(self) -> str:
        """Caption of the image."""

    @property
    def width_px(self) -> int:
        """Width of the upright image."""

    @property
    def height_px(self) -> int:
        """Height of the upright image."""

    @property
    def punsafe(self) -> float | None:
        """Probability of unsafe content by LAION, 0 to 1; None if unknown."""

    @property
    def pwatermark(self) -> float | None:
        """Probability of a watermark by LAION, 0 to 1; None if unknown."""


def unsafe(image: CaptionedImage, config: CleanConfig) -> bool:
    """Return whether LAION's probability of unsafe content exceeds the limit; an unknown one does not."""
    return _exceeds(image.punsafe, config.max_punsafe)


def watermark(image: CaptionedImage, config: CleanConfig) -> bool:
    """Return whether LAION's probability of a watermark exceeds the limit; an unknown one does not."""
    return _exceeds(image.pwatermark, config.max_pwatermark)


def near_empty_mask(candidate: Candidate, image: CaptionedImage, config: CleanConfig) -> bool:
    """Return whether the mask covers less of the image than the limit."""
    segment = candidate.segment
    return segment is not None and _below(segment.area_px / (image.width_px * image.height_px), config.min_mask_share)


def low_mask_quality(candidate: Candidate, image: CaptionedImage, config: CleanConfig) -> bool:
    """Return whether the label-error score of the mask, `mask_quality`, is below the limit."""
    segment = candidate.segment
    return segment is not None and _below(mask_quality(candidate.box, segment), config.min_mask_quality)


def label_off_caption(candidate: Candidate, image: CaptionedImage, config: CleanConfig) -> bool:
    """Return whether the caption does not name the label: imported labels of that kind span the whole caption."""
    whole = (candidate.span_start, candidate.span_end) == (0, len(image.caption))
    return config.label_in_caption and whole and candidate.label != image.caption.strip().lower()


def unconfirmed(confirmation: Confirmation | None, config: CleanConfig) -> bool:
    """Return whether the second detector has no box of the same label at the same place."""
    iou = confirmation.confirmed_iou if confirmation else None
    return iou is not None and _below(iou, config.min_confirmed_iou)


def doubtful_label(confirmation: Confirmation | None, config: CleanConfig) -> bool:
    """Return whether the label-error score of the label is below the limit."""
    quality = confirmation.label_quality if confirmation else None
    return quality is not None and _below(quality, config.min_label_quality)


def not_compared(confirmation: Confirmation | None, config: CleanConfig) -> bool:
    """Return whether the second detector failed on the image, so that no rule about it can judge the candidate."""
    return confirmation is None and config.needs_second_detector


IMAGE_RULES = (unsafe, watermark)
"""Rules about an image. Each takes the image and the settings."""
ENTITY_RULES = (near_empty_mask, low_mask_quality, label_off_caption)
"""Rules about an entity. Each takes a candidate, its image and the settings."""
CONFIRMATION_RULES = (unconfirmed, doubtful_label, not_compared)
"""Rules about the agreement of two detectors. Each takes the confirmation of a candidate, None if the second detector
failed, and the settings."""


def broken_image_rules(image: CaptionedImage, config: CleanConfig) -> tuple[str, ...]:
    """Return the names of the image rules that an image breaks."""
    return tuple(rule.__name__ for rule in IMAGE_RULES if rule(image, config))


def broken_entity_rules(
    candidates: Sequence[Candidate], image: CaptionedImage, config: CleanConfig
) -> list[tuple[str, ...]]:
    """Return for each candidate the names of the entity rules that it breaks."""
    return [tuple(rule.__name__ for rule in ENTITY_RULES if rule(each, image, config)) for each in candidates]


def broken_confirmation_rules(
    confirmations: Sequence[Confirmation | None], config: CleanConfig
) -> list[tuple[str, ...]]:
    """Return for each candidate the names of the rules that its confirmation breaks."""
    return [tuple(rule.__name__ for rule in CONFIRMATION_RULES if rule(each, config)) for each in confirmations]


def mask_quality(box: Box, segment: Segment) -> float:
    """Return a score of how likely a mask is right, 0 to 1: the lowest of three independent signs.

    They are SAM's own estimate of the mask's IoU, the stability of the mask, and the IoU of its bounds with the box
    from which it was made. The lowest counts, as one of them suffices to doubt a mask.
    """
    return min(segment.predicted_iou, segment.stability, bounds(segment.mask).iou(box))


def bounds(mask: Mask) -> Box:
    """Return the bounds of a mask as a box."""
    return Box(x0=mask.x0, y0=mask.y0, x1=mask.x0 + mask.width_px, y1=mask.y0 + mask.height_px)


def _exceeds(value: float | None, limit: float | None) -> bool:
    return value is not None and limit is not None and _float32(value) > _float32(limit)


def _below(value: float, limit: float) -> bool:
    """Return whether a value is below a limit; a limit of 0 is none."""
    return limit > 0 and not _float32(value) >= _float32(limit)


def _float32(value: float) -> float:
    return c_float(value).value
