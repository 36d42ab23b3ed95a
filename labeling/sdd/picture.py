"""Contact sheets of a dataset: images with their entities outlined and their captions below."""

import textwrap
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from infra.storage import refuse_unreadable
from labeling.errors import LabelingError
from labeling.sdd import masks
from labeling.sdd.membership import own_shards, refuse_mixture, refuse_unlike_ledger
from labeling.sdd.pixels import UndecodableImage, decode
from labeling.sdd.schema import Entity, Layer
from labeling.sdd.shards import ShardStore

CELL_PX = 320
TEXT_PX = 44
Colour = tuple[int, int, int]
"""Red, green and blue, 0 to 255."""
Font = ImageFont.FreeTypeFont | ImageFont.ImageFont
COLOURS = ((230, 57, 70), (29, 120, 220), (20, 150, 80), (240, 150, 20), (140, 70, 200), (0, 160, 170))
_TINT = 0.35
_FONT_PX = 13
_GAP_PX = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class SheetRow:
    """Columns of sdd/ that a cell of the sheet shows."""

    caption: str
    entities: tuple[Entity, ...]
    image: bytes


def read_sheet_rows(root: str, count: int) -> list[SheetRow]:
    """Read the first `count` images of a dataset.

    Raises:
        LabelingError: there are no images, or a file is damaged or not part of the dataset.
    """
    store = ShardStore(root)
    refuse_unreadable(store.root, "the dataset")
    rows = list(islice(_rows(store), count))
    if not rows:
        raise LabelingError(f"{root} holds no images in {Layer.SDD}/: `subject-diffusion status {root}` shows why")
    return rows


def _rows(store: ShardStore) -> Iterator[SheetRow]:
    for shard in own_shards(store, Layer.SDD):
        if stamp := store.stamp(Layer.SDD, shard):
            refuse_mixture(store, {shard: stamp.dataset})
            refuse_unlike_ledger(store, shard, stamp)
            yield from store.read(SheetRow, (Layer.SDD,), shard)


def contact_sheet(rows: Sequence[SheetRow], columns: int = 4) -> Image.Image:
    """Draw `rows` in a grid of at most `columns` columns, RGB, each subject in its own colour."""
    columns = min(columns, len(rows))
    height = CELL_PX + TEXT_PX
    lines = -(-len(rows) // columns)
    sheet = Image.new("RGB", (columns * (CELL_PX + _GAP_PX), lines * (height + _GAP_PX)), "white")
    for index, row in enumerate(rows):
        down, right = divmod(index, columns)
        sheet.paste(_cell(row), (right * (CELL_PX + _GAP_PX), down * (height + _GAP_PX)))
    return sheet


def save(sheet: Image.Image, file: str) -> None:
    """Write a picture in the format of the file's suffix.

    Raises:
        LabelingError: the format or folder does not exist, or the disk is full.
    """
    try:
        sheet.save(file)
    except (ValueError, OSError) as error:
        raise LabelingError(
            f"{file}: cannot be written ({error}): give a name in .png, .jpg or .webp, in an existing folder"
        ) from error


def tint_mask(pixels: NDArray[np.uint8], mask: NDArray[np.bool_], colour: Colour) -> None:
    """Tint the pixels of `mask` [H, W] in `pixels` [H, W, 3] and draw its outline, in place."""
    pixels[mask] = ((1 - _TINT) * pixels[mask] + _TINT * np.array(colour)).astype(np.uint8)
    edges, _ = cv2.findContours(mask.astype(np.uint8), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
    cv2.drawContours(pixels, edges, -1, colour, thickness=max(1, max(pixels.shape) // 256))


def draw_box(
    draw: ImageDraw.ImageDraw,
    box: tuple[float, float, float, float],
    text: str,
    colour: Colour,
    font: Font,
) -> None:
    """Draw a box, x0, y0, x1, y1 in pixels, with white text on its colour in its upper left corner."""
    draw.rectangle(box, outline=colour, width=2)
    place = (box[0] + 3, box[1] + 2)
    draw.rectangle(draw.textbbox(place, text, font), fill=colour)
    draw.text(place, text, "white", font)


def _cell(row: SheetRow) -> Image.Image:
    """Draw the image, scaled to fit a square, and its caption.

    Raises:
        LabelingError: the image is damaged.
    """
    try:
        pixels = _tint_masks(decode(row.image), row.entities)
    except UndecodableImage as error:
        raise LabelingError(
            f"the image of {row.caption!r} is damaged ({error}): `subject-diffusion status --deep` names its file"
        ) from error
    scale = CELL_PX / max(pixels.shape[:2])
    cell = Image.new("RGB", (CELL_PX, CELL_PX + TEXT_PX), "white")
    image = Image.fromarray(pixels)
    cell.paste(image.resize((round(image.width * scale), round(image.height * scale)), Image.Resampling.LANCZOS))
    draw, font = ImageDraw.Draw(cell), ImageFont.load_default(_FONT_PX)
    for entity, colour in _with_colours(row.entities):
        box = entity.box
        x0, y0, x1, y1 = (scale * side for side in (box.x0, box.y0, box.x1, box.y1))
        draw_box(draw, (x0, y0, x1, y1), entity.label, colour, font)
    draw.text((0, CELL_PX + 4), "\n".join(textwrap.wrap(row.caption, 46)[:2]), "black", font)
    return cell


def _tint_masks(pixels: NDArray[np.uint8], entities: Iterable[Entity]) -> NDArray[np.uint8]:
    """Return `pixels` [H, W, 3] with each mask tinted and outlined in its colour."""
    tinted = pixels.copy()
    for entity, colour in _with_colours(entities):
        tint_mask(tinted, masks.decode(entity.mask, *pixels.shape[:2]), colour)
    return tinted


def _with_colours(entities: Iterable[Entity]) -> Iterator[tuple[Entity, Colour]]:
    for index, entity in enumerate(entities):
        yield entity, COLOURS[index % len(COLOURS)]
