"""Encoded images as downloaded, and the upright pixels that every stage works on.

Sizes, boxes and masks of the dataset are in pixels after EXIF orientation; `decode` is the one place
that applies it.
"""

import io
import re
import warnings
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFile

MAX_PIXELS = 178_956_970
"""Largest decoded image, 512 MiB of RGB: what Pillow itself takes for a decompression bomb."""
_ORIENTATION = 0x0112
_TURNS: dict[Any, Image.Transpose] = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_SIDEWAYS = frozenset({_TURNS[5], _TURNS[6], _TURNS[7], _TURNS[8]})
_FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "AVIF", "BMP", "TIFF")
"""What the web calls an image. Pillow knows more, some of which run other programs on what they are given (EPS)."""
_MAGIC = re.compile(rb"\xff\xd8\xff|\x89PNG|GIF8|RIFF....WEBP|BM|II\*\0|MM\0\*|....ftypavi[fs]", re.DOTALL)
_HASH_SHAPE = (9, 8)


class UndecodableImage(ValueError):
    """The bytes are no image that the stages can work on; the message says why."""

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason
        """One countable word: not_an_image, undecodable, truncated, too_many_pixels."""


@dataclass(frozen=True, slots=True)
class Probe:
    """What the header says, sizes after EXIF orientation."""

    media_type: str
    width_px: int
    height_px: int
    frames: int


def probe(encoded: bytes, max_pixels: int = MAX_PIXELS) -> Probe:
    """Type and upright size of an encoded image, by its header. A PNG is read to its end, where EXIF may stand.

    Raises:
        UndecodableImage: no known image format, or more than `max_pixels` pixels.
    """
    with _opened(encoded, max_pixels) as image:
        try:
            width, height = image.size
            if _turn(image) in _SIDEWAYS:
                width, height = height, width
            media_type = image.get_format_mimetype() or "application/octet-stream"
            return Probe(media_type=media_type, width_px=width, height_px=height, frames=getattr(image, "n_frames", 1))
        except Exception as error:  # Pillow's plugins raise whatever their format makes them raise
            raise _undecodable(error) from error


def decode(encoded: bytes, max_pixels: int = MAX_PIXELS) -> NDArray[np.uint8]:
    """Upright RGB pixels [H, W, 3]: first frame, EXIF orientation applied, alpha over white, the upper 8 bits of 16.

    Raises:
        UndecodableImage: truncated, not an image, or more than `max_pixels` pixels.
    """
    with _opened(encoded, max_pixels) as image:
        return np.array(_upright(image))  # a copy, as Pillow's own pixels are read-only


def difference_hash(encoded: bytes, max_pixels: int = MAX_PIXELS) -> int:
    """64-bit dHash of the upright image: bit i says whether cell i of 8 rows of 9 is brighter than its right neighbour.

    Reads the whole image, so an image that has one is not truncated. JPEGs are decoded at an eighth of their size,
    which costs a third of the time.

    Returns:
        A signed integer, as Parquet and DuckDB want it.

    Raises:
        UndecodableImage: as `decode`.
    """
    with _opened(encoded, max_pixels) as image:
        image.draft("L", (8 * _HASH_SHAPE[0], 8 * _HASH_SHAPE[1]))
        cells = np.asarray(_upright(image).convert("L").resize(_HASH_SHAPE, Image.Resampling.BOX))
    bits = np.packbits(cells[:, :-1] > cells[:, 1:])
    return int.from_bytes(bits.tobytes(), "big", signed=True)


def _upright(image: ImageFile.ImageFile) -> Image.Image:
    try:
        turn = _turn(image)
        image.load()
        return _rgb(image if turn is None else image.transpose(turn))
    except Exception as error:  # as in `probe`
        raise _undecodable(error) from error


def _opened(encoded: bytes, max_pixels: int) -> ImageFile.ImageFile:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # bombs are refused below, by size
            image = Image.open(io.BytesIO(encoded), formats=_FORMATS)
    except Image.DecompressionBombError as error:
        raise UndecodableImage("too_many_pixels", str(error)) from error
    except Exception as error:  # as in `probe`
        raise UndecodableImage(_without_header(encoded), f"{type(error).__name__}: {error}".split("<_io")[0]) from error
    if image.width * image.height > max_pixels:
        raise UndecodableImage("too_many_pixels", f"{image.width}x{image.height} is more than {max_pixels:,} pixels")
    return image


def _without_header(encoded: bytes) -> str:
    """Why bytes do not open as an image."""
    if not _MAGIC.match(encoded):
        return "not_an_image"
    is_cut_webp = encoded.startswith(b"RIFF") and int.from_bytes(encoded[4:8], "little") + 8 > len(encoded)
    return "truncated" if is_cut_webp else "undecodable"


def _undecodable(error: Exception) -> UndecodableImage:
    reason = "truncated" if "truncated" in str(error) else "undecodable"
    return UndecodableImage(reason, f"{type(error).__name__}: {error}")


def _turn(image: ImageFile.ImageFile) -> Image.Transpose | None:
    """What makes the image upright. Pillow's own `exif_transpose` fails where other tags are garbled."""
    if image.format == "TIFF":
        return None  # Pillow turns these when it loads them
    return _TURNS.get(image.getexif().get(_ORIENTATION))


def _rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I;16"):
        image = Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
    if image.mode in ("I", "F"):
        raise ValueError("samples of 32 bits, which have no agreed white")
    if "A" in image.getbands() or "transparency" in image.info:
        over = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", over.size, "white"), over)
    return image.convert("RGB")
