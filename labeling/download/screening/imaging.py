"""Type, size and perceptual hash of an encoded image."""

from dataclasses import dataclass

import numpy as np
from PIL import Image

from labeling.download.screening.jpeg_scans import jpeg_scans
from labeling.sdd.pixels import (
    MAX_PIXELS,
    SIDEWAYS,
    UndecodableImage,
    as_undecodable,
    open_image,
    orientation_of,
    upright_image,
)

_HASH_SHAPE = (9, 8)
_JPEG = b"\xff\xd8"
_DECODING_BYTES = {"WEBP": 16, "AVIF": 12}
"""Measured bytes per pixel of formats whose decoders keep copies. The others take 6: four channels and the grey pixels
before and after they are turned, or the coefficients of a progressive JPEG."""


@dataclass(frozen=True, slots=True)
class Probe:
    """Properties from an image's header."""

    media_type: str
    width_px: int
    """Width after EXIF orientation."""
    height_px: int
    """Height after EXIF orientation."""
    decoding_bytes: int
    """Estimate of the most memory that `difference_hash` takes."""


def probe(encoded: bytes, max_pixels: int = MAX_PIXELS) -> Probe:
    """Read type and upright size from an image's header. A PNG is read to its end, where EXIF may stand.

    Raises:
        UndecodableImage: the format is unknown, or the image has more than `max_pixels` pixels.
    """
    with open_image(encoded, max_pixels) as image:
        try:
            width, height = image.size
            if orientation_of(image) in SIDEWAYS:
                width, height = height, width
            media_type = image.get_format_mimetype() or "application/octet-stream"
            decoding_bytes = width * height * _DECODING_BYTES.get(image.format or "", 6)
            return Probe(media_type=media_type, width_px=width, height_px=height, decoding_bytes=decoding_bytes)
        except Exception as error:  # Pillow's plugins raise exceptions of any class
            raise as_undecodable(error) from error


def refuse_scans(encoded: bytes, limit: int) -> None:
    """Refuse a JPEG with too many scans, which can take minutes to decode.

    Raises:
        UndecodableImage: it has more than `limit` scans.
    """
    if encoded.startswith(_JPEG) and jpeg_scans(encoded, limit) > limit:
        raise UndecodableImage("too_many_scans", f"a JPEG with more than {limit} scans, each of which costs a decoding")


def difference_hash(encoded: bytes, max_pixels: int = MAX_PIXELS) -> int:
    """Compute the 64-bit dHash of the upright image: bit i is set where cell i is brighter than its right neighbour.

    The image is reduced to 8 rows of 9 cells. It is read to its end, so a truncated image has no hash. JPEGs are
    decoded at an eighth of their size, which takes a third of the time.

    Returns:
        A signed integer, the type of the column in Parquet and DuckDB.

    Raises:
        UndecodableImage: the image cannot be decoded.
    """
    with open_image(encoded, max_pixels) as image:
        image.draft("L", (8 * _HASH_SHAPE[0], 8 * _HASH_SHAPE[1]))
        cells = np.asarray(upright_image(image, "L").resize(_HASH_SHAPE, Image.Resampling.BOX))
    bits = np.packbits(cells[:, :-1] > cells[:, 1:])
    return int.from_bytes(bits.tobytes(), "big", signed=True)
