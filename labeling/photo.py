"""Reading of one photo and of masks for it. A file that cannot be used is refused with its name and the cure."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from labeling.config import DownloadConfig
from labeling.download.screening.imaging import refuse_scans
from labeling.errors import CutoutError
from labeling.sdd.pixels import MAX_PIXELS, UndecodableImage, decode_with_alpha

MAX_BYTES = 1 << 29
"""Largest file that is read, in bytes: as many as the pixels of the largest image take."""
_MAX_SCANS: int = DownloadConfig.model_fields["max_scans"].default
_INSIDE = 128
"""Lowest value, 0 to 255, of alpha and of a mask that is inside the subject: half of the full value."""
_CURES = {
    "not_an_image": "give a JPEG, PNG, WebP, GIF, AVIF, BMP or TIFF file",
    "truncated": "its end is missing; copy or download it again",
    "undecodable": "open it in another program and save it as PNG with 8 bits per channel",
    "too_many_pixels": "scale it down",
    "too_many_scans": "save it again, as PNG or as a JPEG that is not progressive",
}
"""What to do about each reason of an `UndecodableImage`."""


@dataclass(frozen=True, eq=False, slots=True)
class DecodedPhoto:
    """A decoded photo."""

    name: str
    """Name in messages, such as its path."""
    pixels: NDArray[np.uint8]
    """Upright RGB [H, W, 3]: first frame, EXIF orientation applied, the colours under transparency kept."""
    opaque: NDArray[np.bool_] | None
    """Pixels [H, W] that are at least half opaque; None if all are."""


def read_photo(path: Path, max_pixels: int = MAX_PIXELS) -> DecodedPhoto:
    """Read a photo from a file.

    Raises:
        CutoutError: the file cannot be read, or as `decode_photo`.
    """
    return decode_photo(read_bytes(path), str(path), max_pixels)


def decode_photo(encoded: bytes, name: str, max_pixels: int = MAX_PIXELS) -> DecodedPhoto:
    """Decode a photo. This takes 10 bytes of memory per pixel, 16 with transparency; the result takes 3 or 4.

    Args:
        encoded: bytes of the image file.
        name: name of the photo in messages.
        max_pixels: limit on its size; a pixel with transparency or in CMYK counts as 4/3.

    Raises:
        CutoutError: `encoded` is no image of a known format, damaged or too large; the message names cause and cure.
    """
    pixels, alpha = _decode(encoded, name, max_pixels)
    opaque = None if alpha is None else alpha >= _INSIDE
    return DecodedPhoto(name, pixels, None if opaque is None or opaque.all() else opaque)


def read_mask(path: Path, max_pixels: int = MAX_PIXELS) -> NDArray[np.bool_]:
    """Read a mask from a file.

    Raises:
        CutoutError: the file cannot be read, or as `decode_mask`.
    """
    return decode_mask(read_bytes(path), str(path), max_pixels)


def decode_mask(encoded: bytes, name: str, max_pixels: int = MAX_PIXELS) -> NDArray[np.bool_]:
    """Decode a mask [H, W]: an image that is white, or 1, inside the subject, or transparent around it.

    Args:
        encoded: bytes of the image file.
        name: name of the mask in messages.
        max_pixels: limit on its size.

    Raises:
        CutoutError: as `decode_photo`.
    """
    pixels, alpha = _decode(encoded, name, max_pixels)
    if alpha is not None and not (alpha >= _INSIDE).all():
        return alpha >= _INSIDE
    brightness = pixels.max(axis=2)
    return np.asarray(brightness > 0 if brightness.max() <= 1 else brightness >= _INSIDE)


def read_bytes(path: Path) -> bytes:
    """Read the bytes of an image file.

    Raises:
        CutoutError: the file is missing, unreadable or larger than `MAX_BYTES`.
    """
    try:
        if not path.is_file():
            raise CutoutError(f"{path} is {'not a file' if path.exists() else 'missing'}: give the path of an image")
        if (size := path.stat().st_size) > MAX_BYTES:
            raise CutoutError(f"{path} has {size:,} bytes, more than {MAX_BYTES:,}: save it as JPEG, or scale it down")
        return path.read_bytes()
    except OSError as error:
        raise CutoutError(f"{path} cannot be read ({error.strerror}): give an image that this user may read") from error


def _decode(encoded: bytes, name: str, max_pixels: int) -> tuple[NDArray[np.uint8], NDArray[np.uint8] | None]:
    try:
        refuse_scans(encoded, _MAX_SCANS)
        return decode_with_alpha(encoded, max_pixels)
    except UndecodableImage as error:
        raise CutoutError(f"{name} cannot be used as an image ({error}): {_CURES[error.reason]}") from error
