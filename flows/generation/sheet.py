"""The contact sheet: a row for each job, with its subjects on the left, its images beside them and its prompt below."""

import textwrap
from collections.abc import Sequence
from dataclasses import dataclass

from PIL import Image, ImageDraw, ImageFont

CELL_PX = 192
COLUMNS = 6
"""Images of a job in one line of the sheet."""
_GAP_PX = 8
_FONT_PX = 14
_LINE_PX = 18
_TEXT_LINES = 3
_LETTERS_PER_PX = 0.135
"""Letters of the font that fit into a pixel of width, on average."""


@dataclass(frozen=True, eq=False)
class SheetRow:
    """A job on the sheet."""

    prompt: str
    subjects: Sequence[tuple[str, Image.Image]]
    """Label and picture of each subject, RGB or RGBA."""
    images: Sequence[Image.Image]
    """The images, at least one."""


def draw_sheet(rows: Sequence[SheetRow]) -> Image.Image:
    """Draw the rows below each other, RGB."""
    left = max(len(row.subjects) for row in rows)
    right = max(min(len(row.images), COLUMNS) for row in rows)
    step = CELL_PX + _GAP_PX
    drawn = [_draw_row(row, left, (left + right) * step + _GAP_PX) for row in rows]
    sheet = Image.new("RGB", (drawn[0].width, sum(one.height for one in drawn)), "white")
    top = 0
    for one in drawn:
        sheet.paste(one, (0, top))
        top += one.height
    return sheet


def _draw_row(row: SheetRow, left: int, width: int) -> Image.Image:
    """Draw a job; its images start after `left` cells for subjects."""
    step = CELL_PX + _GAP_PX
    lines = -(-len(row.images) // COLUMNS)
    text = _wrap(row.prompt, width - 2 * _GAP_PX)
    height = lines * step + _LINE_PX * (len(text) + 1) + _GAP_PX
    drawn = Image.new("RGB", (width, height), "white")
    draw, font = ImageDraw.Draw(drawn), ImageFont.load_default(_FONT_PX)
    for column, (label, picture) in enumerate(row.subjects):
        drawn.paste(_cell(picture), (_GAP_PX + column * step, _GAP_PX))
        draw.text((_GAP_PX + column * step, step), _wrap(label, CELL_PX)[0], "gray", font)
    for number, image in enumerate(row.images):
        down, across = divmod(number, COLUMNS)
        drawn.paste(_cell(image), (_GAP_PX + (left + across) * step, _GAP_PX + down * step))
    draw.text((_GAP_PX, lines * step + _LINE_PX), "\n".join(text), "black", font)
    return drawn


def _cell(picture: Image.Image) -> Image.Image:
    """Return the picture over white, scaled to fit a square cell."""
    scale = CELL_PX / max(picture.size)
    size = tuple(max(1, round(side * scale)) for side in picture.size)
    # Small images are enlarged without smoothing, which would show detail that they do not have.
    method = Image.Resampling.NEAREST if scale > 1 else Image.Resampling.LANCZOS
    scaled = picture.convert("RGBA").resize((size[0], size[1]), method)
    cell = Image.new("RGB", (CELL_PX, CELL_PX), "white")
    cell.paste(scaled, ((CELL_PX - size[0]) // 2, (CELL_PX - size[1]) // 2), scaled)
    return cell


def _wrap(text: str, width_px: int) -> list[str]:
    """Return at most `_TEXT_LINES` lines, at least one."""
    return textwrap.wrap(text, int(width_px * _LETTERS_PER_PX), max_lines=_TEXT_LINES, placeholder=" …") or [""]
