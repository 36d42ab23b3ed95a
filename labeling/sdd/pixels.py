"""Decoding of the dataset's images: from the bytes as downloaded to upright RGB pixels.

Sizes, boxes and masks of the dataset are in pixels after EXIF orientation. Only this module applies the orientation.
"""

import io
import re
import warnings

import cv2
import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from PIL import Image, ImageFile

MAX_PIXELS = 178_956_970
"""Largest decoded image, 512 MiB of RGB: Pillow's own limit for decompression bombs. A pixel with four channels
counts as 4/3."""
_STRIP_PIXELS = 1 << 20
"""Pixels per conversion step; a conversion needs little more memory than its result."""
_ORIENTATION = 0x0112
_TRANSPOSES: dict[object, Image.Transpose] = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
SIDEWAYS = frozenset({_TRANSPOSES[5], _TRANSPOSES[6], _TRANSPOSES[7], _TRANSPOSES[8]})
"""Transposes that exchange width and height."""
_FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "AVIF", "BMP", "TIFF")
"""Image formats of the web. Pillow knows more, some of which run other programs on their input (EPS)."""
_MAGIC = re.compile(rb"\xff\xd8\xff|\x89PNG|GIF8|RIFF....WEBP|BM|II\*\0|MM\0\*|....ftypavi[fs]", re.DOTALL)


class UndecodableImage(ValueError):
    """The bytes are not an image that the stages can decode; the message gives the cause."""

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason
        """Reason as one word: not_an_image, undecodable, truncated, too_many_pixels, too_many_scans."""


def decode(encoded: bytes, max_pixels: int = MAX_PIXELS, reduction: int = 1) -> NDArray[np.uint8]:
    """Decode to upright RGB pixels [H, W, 3]: first frame, EXIF orientation, alpha over white, upper 8 of 16 bits.

    Args:
        encoded: bytes of the image file.
        max_pixels: limit on the size of the image.
        reduction: factor by which sides may shrink to save time: 1, 2, 4 or 8. Sizes are rounded up. The image keeps
            its size if its format cannot reduce, or if it must be turned and its sides are not multiples of the factor.

    Raises:
        UndecodableImage: truncated, not an image, or more than `max_pixels` pixels of RGB.
    """
    with open_image(encoded, max_pixels) as image:
        if reduction > 1:
            _reduce(image, reduction)
        return _pixels_of(upright_image(image))


def decode_reduced(encoded: bytes, min_side_px: int) -> NDArray[np.uint8]:
    """Decode as `decode`, a JPEG at 1/2, 1/4 or 1/8 of its size if its shorter side keeps at least `min_side_px`.

    Raises:
        UndecodableImage: as `decode`.
    """
    with open_image(encoded, MAX_PIXELS) as image:
        for reduction in (8, 4, 2):
            if min(image.size) >= reduction * min_side_px:
                _reduce(image, reduction)
                break
        return _pixels_of(upright_image(image))


def decode_with_alpha(
    encoded: bytes, max_pixels: int = MAX_PIXELS
) -> tuple[NDArray[np.uint8], NDArray[np.uint8] | None]:
    """Decode as `decode`, but keep the colours under transparency: upright RGB [H, W, 3] and alpha [H, W].

    Returns:
        The pixels, and None for alpha if the image has no transparency.

    Raises:
        UndecodableImage: as `decode`.
    """
    with open_image(encoded, max_pixels) as image:
        if not _is_transparent(image):
            return _pixels_of(upright_image(image)), None
        pixels = np.asarray(upright_image(image, "RGBA"))
    return np.ascontiguousarray(pixels[..., :3]), pixels[..., 3].copy()


def _pixels_of(image: Image.Image) -> NDArray[np.uint8]:
    """Copy the pixels of an RGB image to an array [H, W, 3]: Pillow's own conversion copies them twice."""
    try:
        stored = pa.array(image)  # without a copy: four bytes a pixel, as Pillow stores them
    except ValueError:  # larger images are in several blocks
        return _pixels_by_strips(image)
    four_channels = np.frombuffer(stored.flatten().buffers()[1], np.uint8).reshape(image.height, image.width, 4)
    return np.asarray(cv2.cvtColor(four_channels, cv2.COLOR_RGBA2RGB))


def _pixels_by_strips(image: Image.Image) -> NDArray[np.uint8]:
    pixels = np.empty((image.height, image.width, 3), np.uint8)
    rows = max(1, _STRIP_PIXELS // image.width)
    for top in range(0, image.height, rows):
        bottom = min(top + rows, image.height)
        pixels[top:bottom] = np.asarray(image.crop((0, top, image.width, bottom)))
    return pixels


def open_image(encoded: bytes, max_pixels: int) -> ImageFile.ImageFile:
    """Open an image and read its header only.

    Raises:
        UndecodableImage: no known image format, or more than `max_pixels` pixels of RGB.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # bombs are refused below, by size
            image = Image.open(io.BytesIO(encoded), formats=_FORMATS)
    except Image.DecompressionBombError as error:
        raise UndecodableImage("too_many_pixels", str(error).split(", could")[0]) from error
    except Exception as error:  # as in `upright_image`
        message = f"{type(error).__name__}: {error}".split(" <_io")[0]
        raise UndecodableImage(_header_problem(encoded), message) from error
    if decoded_bytes(image) > 3 * max_pixels:
        size = f"{image.width}x{image.height} {image.mode}"
        raise UndecodableImage("too_many_pixels", f"{size} is more than {max_pixels:,} pixels of RGB")
    return image


def decoded_bytes(image: Image.Image) -> int:
    """Return the size of the pixels in bytes: three channels, or four with transparency or in CMYK."""
    channels = 4 if _is_transparent(image) else max(3, len(image.getbands()))
    return image.width * image.height * channels


def upright_image(image: ImageFile.ImageFile, mode: str = "RGB") -> Image.Image:
    """Load the pixels and turn them upright.

    Args:
        image: an opened image.
        mode: RGB, L for brightness, or RGBA, which keeps transparency; RGB and L show it over white.

    Raises:
        UndecodableImage: truncated, or otherwise damaged.
    """
    try:
        transpose = orientation_of(image)
        image.load()
        converted = _convert(image, mode)
        return converted if transpose is None else converted.transpose(transpose)
    except Exception as error:  # Pillow's plugins raise whatever their format makes them raise
        raise as_undecodable(error) from error


def _header_problem(encoded: bytes) -> str:
    """Return the reason why bytes do not open as an image."""
    if not _MAGIC.match(encoded):
        return "not_an_image"
    is_cut_webp = encoded.startswith(b"RIFF") and int.from_bytes(encoded[4:8], "little") + 8 > len(encoded)
    return "truncated" if is_cut_webp else "undecodable"


def as_undecodable(error: Exception) -> UndecodableImage:
    """Return the `UndecodableImage` for an exception of Pillow."""
    reason = "truncated" if "truncated" in str(error) else "undecodable"
    return UndecodableImage(reason, f"{type(error).__name__}: {error}")


def orientation_of(image: ImageFile.ImageFile) -> Image.Transpose | None:
    """Return the transpose that turns the image upright. Pillow's `exif_transpose` fails if other tags are garbled."""
    if image.format == "TIFF":
        return None  # Pillow turns these when it loads them
    return _TRANSPOSES.get(image.getexif().get(_ORIENTATION))


def _reduce(image: ImageFile.ImageFile, reduction: int) -> None:
    """Set a JPEG to decode at reduced size. If it is rotated afterwards, its sides must be multiples of `reduction`."""
    is_divisible = image.width % reduction == image.height % reduction == 0
    try:
        if is_divisible or orientation_of(image) is None:
            image.draft(None, (image.width // reduction, image.height // reduction))
    except Exception as error:  # as in `upright_image`
        raise as_undecodable(error) from error


def _convert(image: Image.Image, mode: str) -> Image.Image:
    if image.mode == mode and not _is_transparent(image):
        return image
    converted = Image.new(mode, image.size)
    rows = max(1, _STRIP_PIXELS // image.width)
    for top in range(0, image.height, rows):
        strip = image.crop((0, top, image.width, min(top + rows, image.height)))
        eight_bits = _to_eight_bits(strip)
        converted.paste((eight_bits if mode == "RGBA" else _to_rgb(eight_bits)).convert(mode), (0, top))
    return converted


def _to_eight_bits(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I;16"):
        return Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
    if image.mode in ("I", "F"):
        raise ValueError("32-bit samples have no standard white level")
    return image


def _to_rgb(image: Image.Image) -> Image.Image:
    if _is_transparent(image):
        over = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", over.size, "white"), over)
    return image if image.mode == "RGB" else image.convert("RGB")  # `convert` would copy an RGB image


def _is_transparent(image: Image.Image) -> bool:
    return "A" in image.getbands() or "transparency" in image.info
