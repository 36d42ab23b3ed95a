"""Decodes training images: JPEGs straight into an array, all other formats as the labelling stages do.

Pillow holds its pixels in a layout of its own and copies them twice on the way to an array. OpenCV runs the same
decoder (libjpeg-turbo) with the same options and writes the array itself, so the pixels are equal.
"""

import cv2
import numpy as np
from jaxtyping import UInt8
from numpy.typing import NDArray

from labeling.sdd.pixels import MAX_PIXELS, UndecodableImage, decode, open_image, orientation_of

_END_OF_JPEG = b"\xff\xd9"
_SCALES = {
    1: 0,
    2: cv2.IMREAD_REDUCED_GRAYSCALE_2,
    4: cv2.IMREAD_REDUCED_GRAYSCALE_4,
    8: cv2.IMREAD_REDUCED_GRAYSCALE_8,
}
"""OpenCV's flags for the decoder's reductions; grey or colour is up to another flag, in spite of their names."""


def decode_reduced(encoded: bytes, reduction: int) -> UInt8[np.ndarray, "_h _w 3"]:
    """Return what `labeling.sdd.pixels.decode` returns.

    Only a JPEG that is damaged before its end may differ: some that Pillow refuses are decoded in part.

    Args:
        encoded: bytes of the image file.
        reduction: factor by which sides may shrink: 1, 2, 4 or 8.

    Raises:
        UndecodableImage: as `decode`.
    """
    pixels = _decode_jpeg(encoded, reduction) if _is_plain_jpeg(encoded) else None
    return decode(encoded, reduction=reduction) if pixels is None else pixels


def _is_plain_jpeg(encoded: bytes) -> bool:
    """Return whether the bytes are an upright JPEG in RGB that was not cut off."""
    if not encoded.endswith(_END_OF_JPEG):
        return False
    try:
        with open_image(encoded, MAX_PIXELS) as image:
            return image.format == "JPEG" and image.mode == "RGB" and orientation_of(image) is None
    except (UndecodableImage, SyntaxError, ValueError, OSError, TypeError, KeyError):
        return False  # `decode` says what is wrong


def _decode_jpeg(encoded: bytes, reduction: int) -> NDArray[np.uint8] | None:
    """Return the pixels, or None if the decoder gives up."""
    flags = cv2.IMREAD_COLOR_RGB | cv2.IMREAD_IGNORE_ORIENTATION | _SCALES[reduction]
    pixels: NDArray[np.uint8] | None = cv2.imdecode(np.frombuffer(encoded, np.uint8), flags)
    return pixels
