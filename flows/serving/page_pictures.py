"""Pictures that the page shows: cut-outs on a chequered ground, the canvas for boxes, attention over an image."""

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from labeling.cutout import Cutout
from labeling.photo import DecodedPhoto

COLOURS = ((79, 70, 229), (217, 70, 40), (5, 150, 105), (202, 138, 4), (190, 24, 93), (8, 145, 178), (101, 63, 20))
"""Colours of the subjects, which repeat after the last."""
SHOWN_PX = 512
"""Longest side of a picture on the page, in pixels."""
_SQUARE_PX = 12
_CANVAS_PX = 384
"""Longer side of the canvas for boxes, in pixels."""


def colour_of(number: int) -> tuple[int, int, int]:
    """Return the colour of a subject."""
    return COLOURS[number % len(COLOURS)]


def shrink(image: Image.Image) -> Image.Image:
    """Return the image with at most `SHOWN_PX` pixels on its longer side."""
    scale = min(1.0, SHOWN_PX / max(image.size))
    return image.resize([max(1, round(side * scale)) for side in image.size], Image.Resampling.BILINEAR)


def on_white(photo: DecodedPhoto) -> NDArray[np.uint8]:
    """Return the pixels of a photo [H, W, 3], white where it is transparent."""
    if photo.opaque is None:
        return photo.pixels
    return np.where(photo.opaque[..., None], photo.pixels, np.uint8(255))


def draw_cutout(cutout: Cutout) -> Image.Image:
    """Return the subject of a cut-out on chequered ground."""
    subject = shrink(Image.fromarray(cutout.rgba(), "RGBA"))
    rows, columns = np.indices(subject.size[::-1]) // _SQUARE_PX
    ground = np.where((rows + columns) % 2, 236, 250).astype(np.uint8)
    return Image.alpha_composite(Image.fromarray(ground).convert("RGBA"), subject).convert("RGB")


def draw_canvas(width: int, height: int) -> Image.Image:
    """Return an empty canvas of the proportions of the image, with lines at its eighths."""
    scale = _CANVAS_PX / max(width, height)
    columns, rows = round(width * scale), round(height * scale)
    canvas = Image.new("RGB", (columns, rows), (248, 248, 252))
    draw = ImageDraw.Draw(canvas)
    for part in range(1, 8):
        x, y = columns * part // 8, rows * part // 8
        draw.line([(x, 0), (x, rows)], (228, 228, 238))
        draw.line([(0, y), (columns, y)], (228, 228, 238))
    return canvas


def draw_attention(image: Image.Image, attention: NDArray[np.float32]) -> Image.Image:
    """Return the image, dark where the model did not look for a subject.

    Args:
        image: the image.
        attention: attention of each latent position to the subject [h, w].
    """
    low, high = float(attention.min()), float(attention.max())
    share = (attention - low) / max(high - low, 1e-6)
    smooth = Image.fromarray((share * 255).astype(np.uint8)).resize(image.size, Image.Resampling.BICUBIC)
    weight = np.asarray(smooth, np.float32)[..., None] / 255
    seen = np.asarray(image.convert("RGB"), np.float32) * (0.15 + 0.85 * weight)
    enlarged = Image.fromarray(seen.astype(np.uint8))
    scale = max(1, SHOWN_PX // 2 // max(image.size))
    return enlarged.resize((image.width * scale, image.height * scale), Image.Resampling.NEAREST)
