"""Convert pictures and masks from the forms that users have into the arrays that the model takes.

A picture or mask whose meaning is ambiguous raises a `ValueError` that says what to pass instead.
"""

from collections.abc import Collection
from typing import Any

import numpy as np
from jaxtyping import Bool, UInt8
from numpy.typing import NDArray
from PIL import Image, ImageOps

Array = NDArray[Any]
"""Array of any element type."""
Picture = Image.Image | Array
"""A Pillow image, or an array [height, width] or [height, width, channels]."""

_DEEP_MODES = frozenset({"I", "F", "I;16", "I;16B", "I;16L", "I;16N"})
"""Pillow's modes of one channel with more than eight bits, which Pillow's own conversion clips."""
_MASK_MODES = _DEEP_MODES | {"1", "L"}


def rgb_pixels(picture: object, name: str) -> UInt8[np.ndarray, "h w 3"]:
    """Return the picture upright and in RGB.

    Grey is repeated, transparency is ignored, and values of more than 8 bits are scaled to 8 bits.

    Args:
        picture: the `Picture`.
        name: name of the picture in messages.

    Raises:
        ValueError: `picture` is not a `Picture`, has values whose meaning is ambiguous, or cannot be decoded.
    """
    values = _decode(picture, "RGB", name) if isinstance(picture, Image.Image) else picture
    pixels = _to_eight_bits(_to_channels_last(values, (1, 3, 4), name), name)[..., :3]
    return np.ascontiguousarray(np.broadcast_to(pixels, (*pixels.shape[:2], 3)))


def mask_pixels(mask: object, name: str) -> Bool[np.ndarray, "h w"]:
    """Return the upright mask as booleans: True where a value is at least half of the full value.

    The full value is True, 1, 255 or 65535.

    Args:
        mask: a `Picture` of one channel.
        name: name of the mask in messages.

    Raises:
        ValueError: `mask` is not a `Picture` of one channel, has values whose meaning is ambiguous, or cannot be
            decoded.
    """
    if isinstance(mask, Image.Image):
        if mask.mode not in _MASK_MODES:
            raise ValueError(f"{name} has the mode {mask.mode!r}: give one channel, such as picture.getchannel('A')")
        mask = _decode(mask, "L", name)
    values = _to_channels_last(mask, (1,), name)[..., 0]
    if values.dtype.kind not in "biuf":
        raise ValueError(f"{name} holds {values.dtype}: give bool, integers from 0 to 255, or floats from 0 to 1")
    highest = 1.0 if values.dtype.kind in "bf" else 65535
    _refuse_outside(values, highest, name, "give bool, integers from 0 to 255, or floats from 0 to 1")
    full = next(full for full in (1, 255, 65535) if values.max() <= full)
    return np.asarray(values >= full / 2)


def cutout_layers(cutout: object, name: str) -> tuple[Picture, Picture]:
    """Split a picture that is transparent around its subject into picture and mask.

    Raises:
        ValueError: `cutout` has no transparency, or cannot be decoded.
    """
    if isinstance(cutout, Image.Image) and cutout.has_transparency_data:
        cutout = _decode(cutout, "RGBA", name)
    if not isinstance(cutout, np.ndarray) or cutout.ndim != 3 or cutout.shape[2] != 4:
        raise ValueError(f"{name} has no transparency: cut the subject out first")
    return cutout, cutout[..., 3]


def _decode(picture: Image.Image, mode: str, name: str) -> Array:
    """Return the picture upright by its EXIF orientation, in `mode` or in its own mode of more than 8 bits."""
    try:
        upright = ImageOps.exif_transpose(picture)
        return np.asarray(upright if upright.mode in _DEEP_MODES else upright.convert(mode))
    except (OSError, SyntaxError, ValueError) as error:
        raise ValueError(f"{name} cannot be decoded: {error}") from error


def _to_channels_last(values: object, channels: Collection[int], name: str) -> Array:
    if not isinstance(values, np.ndarray):
        raise ValueError(f"{name} is a {type(values).__name__}: give a Pillow image or a NumPy array")
    whole = values[..., None] if values.ndim == 2 else values
    if whole.ndim != 3 or whole.size == 0 or whole.shape[2] not in channels:
        counts = " or ".join(map(str, channels))
        raise ValueError(f"{name} has the shape {values.shape}: give [height, width, channels] with {counts} channels")
    return whole


def _to_eight_bits(values: Array, name: str) -> NDArray[np.uint8]:
    cure = "give uint8, uint16, or floats from 0 to 1"
    if values.dtype == np.uint8:
        return values
    if values.dtype.kind == "u" and values.dtype.itemsize == 2:
        if values.max() <= 255:
            raise ValueError(f"{name} holds 16-bit values, none above 255 of 65535: give them as uint8")
        return np.asarray((values / 257).round(), np.uint8)
    if values.dtype.kind == "f":
        _refuse_outside(values, 1.0, name, cure)
        return np.asarray((values * 255).round(), np.uint8)
    raise ValueError(f"{name} holds {values.dtype}: {cure}")


def _refuse_outside(values: Array, highest: float, name: str, cure: str) -> None:
    if not (values.min() >= 0 and values.max() <= highest):
        raise ValueError(f"{name} holds values from {values.min()} to {values.max()}: {cure}")
