"""Draws a grid of sample images: a line for each row of the dataset, a column for each prompt."""

import math
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import UInt8
from PIL import Image, ImageDraw, ImageFont

_GAP_PX = 8
_LETTERS = 64
"""Number of letters that roughly fit over a picture, which determines their size."""
_NARROWEST = 0.5
"""Width of a narrow letter as a share of the font size."""


@dataclass(frozen=True, slots=True)
class Line:
    """One line of the grid: the subjects of a row and the images sampled with them."""

    references: UInt8[np.ndarray, "R _s _s 3"]
    """Pictures of the subjects."""
    labels: Sequence[str]
    """Labels of the subjects."""
    caption: str
    images: Sequence[Image.Image]
    """Square images; their size is the same in all lines."""


def draw_grid(headings: Sequence[str], lines: Sequence[Line]) -> Image.Image:
    """Return an RGB image with the lines below each other: left the references, then the images, below the caption.

    Args:
        headings: one heading for each image of a line.
    """
    cell = lines[0].images[0].width
    font_px = max(11, round(cell / _LETTERS / _NARROWEST))
    words_px = round(1.5 * font_px)
    step = cell + _GAP_PX
    sheet = Image.new("RGB", ((1 + len(headings)) * step, words_px + len(lines) * (step + words_px)), "white")
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(font_px)
    for column, heading in enumerate(["subjects", *headings]):
        draw.text((column * step, 0), _shorten(heading, cell, font_px), "black", font)
    for index, line in enumerate(lines):
        top = words_px + index * (step + words_px)
        sheet.paste(_draw_references(line, cell, font), (0, top))
        for column, image in enumerate(line.images, start=1):
            sheet.paste(image, (column * step, top))
        draw.text((0, top + cell), _shorten(line.caption, sheet.width, font_px), "black", font)
    return sheet


def _draw_references(line: Line, cell: int, font: "ImageFont.FreeTypeFont | ImageFont.ImageFont") -> Image.Image:
    """Return the subjects' pictures side by side in a square, each with its label."""
    square = Image.new("RGB", (cell, cell), "white")
    draw = ImageDraw.Draw(square)
    columns = math.ceil(math.sqrt(len(line.references)))
    side = cell // columns
    for index, (reference, label) in enumerate(zip(line.references, line.labels, strict=True)):
        down, right = divmod(index, columns)
        picture = Image.fromarray(reference).resize((side, side), Image.Resampling.LANCZOS)
        square.paste(picture, (right * side, down * side))
        draw.text((right * side + 2, down * side), label, "black", font)
    return square


def _shorten(words: str, width_px: int, font_px: int) -> str:
    return textwrap.shorten(words, max(8, round(width_px / font_px / _NARROWEST)), placeholder=" …")
