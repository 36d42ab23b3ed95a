"""Boxes, masks and labels of an image as SVG, in pixels of the upright image."""

from collections.abc import Iterable
from dataclasses import dataclass
from html import escape

import cv2
import numpy as np

from labeling.sdd import masks
from labeling.sdd.picture import COLOURS
from labeling.sdd.schema import Box, Mask

_FONT_SHARE, _TOLERANCE_SHARE = 1 / 20, 1 / 300
"""Height of a label, and tolerance of an outline, as shares of the larger side of the image."""


@dataclass(frozen=True, slots=True)
class Mark:
    """A box to draw."""

    label: str
    about: str
    """Text of its tooltip."""
    box: Box
    mask: Mask | None
    refused: bool = False
    """Whether it breaks a rule: its box is dashed."""


def draw_marks(marks: Iterable[Mark], width_px: int, height_px: int) -> str:
    """Return the drawing, each box in its own colour."""
    side = max(width_px, height_px)
    return "".join(_mark(mark, COLOURS[number % len(COLOURS)], side) for number, mark in enumerate(marks))


def _mark(mark: Mark, colour: tuple[int, int, int], side: int) -> str:
    paint = "#{:02x}{:02x}{:02x}".format(*colour)
    box, font = mark.box, side * _FONT_SHARE
    dashes = ' stroke-dasharray="6 4"' if mark.refused else ""
    outline = "" if mark.mask is None else _outline(mark.mask, side * _TOLERANCE_SHARE)
    region = f'<path d="{outline}" fill="{paint}" fill-opacity=".38" fill-rule="evenodd"/>' if outline else ""
    return (
        f"<g><title>{escape(mark.about)}</title>{region}"
        f'<rect x="{box.x0:.0f}" y="{box.y0:.0f}" width="{max(0, box.x1 - box.x0):.0f}" '
        f'height="{max(0, box.y1 - box.y0):.0f}" fill="none" stroke="{paint}" stroke-width="2" '
        f'vector-effect="non-scaling-stroke"{dashes}/>'
        f'<text x="{box.x0 + font * 0.2:.0f}" y="{box.y0 + font:.0f}" font-size="{font:.0f}" fill="#fff" '
        f'stroke="{paint}" stroke-width="{font * 0.3:.1f}" paint-order="stroke" '
        f'font-family="system-ui, sans-serif" font-weight="600">{escape(mark.label)}</text></g>'
    )


def _outline(mask: Mask, tolerance_px: float) -> str:
    """Return the path of a mask's outlines, holes included; an empty one for a damaged mask."""
    try:
        lengths = masks.run_lengths(mask.counts).astype(np.int64)
    except IndexError:
        return ""
    if lengths.min(initial=0) < 0 or lengths.sum() != mask.width_px * mask.height_px:
        return ""  # decoding could take all memory
    inside = masks.decode_crop(mask).astype(np.uint8)
    contours, _ = cv2.findContours(inside, cv2.RETR_CCOMP, cv2.CHAIN_APPROX_SIMPLE, offset=(mask.x0, mask.y0))
    parts = []
    for contour in contours:
        points = cv2.approxPolyDP(contour, tolerance_px, closed=True).reshape(-1, 2).tolist()
        if len(points) > 2:
            parts.append("M" + "L".join(f"{x} {y}" for x, y in points) + "Z")
    return "".join(parts)
