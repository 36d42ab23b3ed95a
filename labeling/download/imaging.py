"""What a stage asks of an encoded image beside its pixels: its type and size, and whether it was seen before."""

from dataclasses import dataclass

import numpy as np
from PIL import Image

from labeling.download.jpeg_scans import jpeg_scans
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
"""Bytes a pixel, as measured, of formats whose decoders keep copies. The others take 6: four channels and the grey
pixels before and after they are turned, or a progressive JPEG's coefficients."""


@dataclass(frozen=True, slots=True)
class Probe:
    """What the header says, sizes after EXIF orientation."""

    media_type: str
    width_px: int
    height_px: int
    decoding_bytes: int
    """Memory that `difference_hash` takes at most, roughly."""


def probe(encoded: bytes, max_pixels: int = MAX_PIXELS) -> Probe:
    """Type and upright size of an encoded image, by its header. A PNG is read to its end, where EXIF may stand.

    Raises:
        UndecodableImage: no known image format, or more than `max_pixels` pixels.
    """
    with open_image(encoded, max_pixels) as image:
        try:
            width, height = image.size
            if orientation_of(image) in SIDEWAYS:
                width, height = height, width
            media_type = image.get_format_mimetype() or "application/octet-stream"
            decoding_bytes = width * height * _DECODING_BYTES.get(image.format or "", 6)
            return Probe(media_type=media_type, width_px=width, height_px=height, decoding_bytes=decoding_bytes)
        except Exception as error:  # Pillow's plugins raise whatever their format makes them raise
            raise as_undecodable(error) from error


def refuse_scans(encoded: bytes, limit: int) -> None:
    """Let pass what is no JPEG with more than `limit` scans.

    Raises:
        UndecodableImage: it is.
    """
    if encoded.startswith(_JPEG) and jpeg_scans(encoded, limit) > limit:
        raise UndecodableImage("too_many_scans", f"a JPEG with more than {limit} scans, each of which costs a decoding")


def difference_hash(encoded: bytes, max_pixels: int = MAX_PIXELS) -> int:
    """64-bit dHash of the upright image: bit i says whether cell i of 8 rows of 9 is brighter than its right neighbour.

    Reads the whole image, so an image that has one is not truncated. JPEGs are decoded at an eighth of their size,
    which costs a third of the time.

    Returns:
        A signed integer, as Parquet and DuckDB want it.

    Raises:
        UndecodableImage: as `decode`.
    """
    with open_image(encoded, max_pixels) as image:
        image.draft("L", (8 * _HASH_SHAPE[0], 8 * _HASH_SHAPE[1]))
        cells = np.asarray(upright_image(image, "L").resize(_HASH_SHAPE, Image.Resampling.BOX))
    bits = np.packbits(cells[:, :-1] > cells[:, 1:])
    return int.from_bytes(bits.tobytes(), "big", signed=True)
