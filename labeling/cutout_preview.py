"""A picture of a cut-out: the photo with the subject's outline and the numbered boxes that could replace its own."""

import cv2
import numpy as np
from PIL import Image, ImageDraw, ImageFont

from labeling.cutout import Cutout, RelativeBox
from labeling.sdd.picture import COLOURS, draw_box, tint_mask

SIDE_PX = 1024
"""Longest side of the picture; smaller photos keep their size."""
_FONT_PX = 16


def draw_cutout(cutout: Cutout) -> Image.Image:
    """Draw the photo with the mask tinted and outlined, its box, and the other candidates with number and score."""
    height, width = cutout.mask.shape
    scale = min(1.0, SIDE_PX / max(width, height))
    size = max(1, round(scale * width)), max(1, round(scale * height))
    pixels = cv2.resize(cutout.image, size, interpolation=cv2.INTER_AREA)
    coverage = cv2.resize(cutout.mask.astype(np.uint8) * np.uint8(255), size, interpolation=cv2.INTER_AREA)
    tint_mask(pixels, coverage >= 128, COLOURS[0])
    picture = Image.fromarray(pixels)
    draw, font = ImageDraw.Draw(picture), ImageFont.load_default(_FONT_PX)
    for number, found in reversed(list(enumerate(cutout.candidates, start=1))):  # the best is drawn last, on top
        if number != cutout.candidate:
            colour = COLOURS[1 + number % (len(COLOURS) - 1)]
            draw_box(draw, _at(found.box, size), f"{number}  {found.score:.2f}", colour, font)
    number_and_score = "" if cutout.candidate is None else f"{cutout.candidate}  {cutout.score:.2f}  "
    draw_box(draw, _at(cutout.box, size), f"{number_and_score}{cutout.label}", COLOURS[0], font)
    return picture


def _at(box: RelativeBox, size: tuple[int, int]) -> tuple[float, float, float, float]:
    """Return the box in pixels of a picture of `size`."""
    width, height = size
    return box[0] * width, box[1] * height, box[2] * width, box[3] * height
