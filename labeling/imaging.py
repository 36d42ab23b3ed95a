"""Encoded images as downloaded, and the upright pixels that every stage works on.

Sizes, boxes and masks of the dataset are in pixels after EXIF orientation; `decode` is the one place
that applies it.
"""

import io
import warnings
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFile, ImageOps

MAX_PIXELS = 178_956_970
"""Largest decoded image, 512 MiB of RGB: what Pillow itself takes for a decompression bomb."""
_ORIENTATION = 0x0112
_SIDEWAYS = frozenset({5, 6, 7, 8})


class UndecodableImage(ValueError):
    """The bytes are no image that the stages can work on; the message says why."""


@dataclass(frozen=True, slots=True)
class Probe:
    """What the header says, sizes after EXIF orientation."""

    media_type: str
    width_px: int
    height_px: int
    frames: int


def probe(encoded: bytes, max_pixels: int = MAX_PIXELS) -> Probe:
    """Type and upright size of an encoded image, read from its header without decoding pixels.

    Raises:
        UndecodableImage: no known image format, or more than `max_pixels` pixels.
    """
    with _opened(encoded, max_pixels) as image:
        width, height = image.size
        if image.getexif().get(_ORIENTATION) in _SIDEWAYS:
            width, height = height, width
        media_type = image.get_format_mimetype() or "application/octet-stream"
        return Probe(media_type=media_type, width_px=width, height_px=height, frames=getattr(image, "n_frames", 1))


def decode(encoded: bytes, max_pixels: int = MAX_PIXELS) -> NDArray[np.uint8]:
    """Upright RGB pixels [H, W, 3]: first frame, EXIF orientation applied, alpha over white, 16 bit scaled to 8.

    Raises:
        UndecodableImage: truncated, not an image, or more than `max_pixels` pixels.
    """
    with _opened(encoded, max_pixels) as image:
        try:
            image.load()
            upright = ImageOps.exif_transpose(image)
            return np.asarray(_rgb(upright))
        except Exception as error:  # Pillow's plugins raise whatever their format makes them raise
            raise UndecodableImage(f"{type(error).__name__}: {error}") from error


def _opened(encoded: bytes, max_pixels: int) -> ImageFile.ImageFile:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # bombs are refused below, by size
            image = Image.open(io.BytesIO(encoded))
    except Exception as error:  # same: SyntaxError, struct.error and others reach here from plugins
        raise UndecodableImage(f"{type(error).__name__}: {error}".split("<_io")[0].strip()) from error
    if image.width * image.height > max_pixels:
        raise UndecodableImage(f"{image.width}x{image.height} is more than {max_pixels:,} pixels")
    return image


def _rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I") or image.mode == "F":
        wide = np.asarray(image, dtype=np.float64)
        scale = 255.0 / 65535.0 if wide.max(initial=0) > 255 else 1.0
        image = Image.fromarray((wide * scale).clip(0, 255).astype(np.uint8))
    if "A" in image.getbands() or "transparency" in image.info:
        over = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", over.size, "white"), over)
    return image.convert("RGB")
