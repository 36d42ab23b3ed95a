"""The training image: a square of the picture, at the size that the network is trained at."""

import cv2
import numpy as np
from jaxtyping import Float, UInt8
from numpy.typing import NDArray

from labeling.sdd.pixels import UndecodableImage, decode
from training.data.errors import PoisonedRow
from training.data.placement import Square

_PITCHES = (8, 4, 2)


def pitch_of(width_px: int, height_px: int, image_px: int) -> int:
    """How many pixels a side a JPEG decoder may make one of, so that a crop still has `image_px` of them: 1 to 8."""
    return next((pitch for pitch in _PITCHES if min(width_px, height_px) // pitch >= image_px), 1)


def decoded(encoded: bytes, width_px: int, height_px: int, pitch: int) -> UInt8[np.ndarray, "_h _w 3"]:
    """The picture, upright, `pitch` times smaller if its format offers it, else whole.

    Raises:
        PoisonedRow: it cannot be decoded, or is not of the size that boxes and masks are of.
    """
    try:
        pixels = decode(encoded, reduction=pitch)
    except UndecodableImage as error:
        raise PoisonedRow(error.reason, str(error)) from error
    sizes = {(-(-height_px // step), -(-width_px // step)) for step in (1, pitch)}
    if pixels.shape[:2] not in sizes:
        found, said = "x".join(map(str, pixels.shape[1::-1])), f"{width_px}x{height_px}"
        raise PoisonedRow("other_size", f"the image decodes to {found}, its row says {said}")
    return pixels


def pitch_in(pixels: UInt8[np.ndarray, "_h _w 3"], width_px: int, pitch: int) -> int:
    """How many pixels of the picture, a side, are one of `pixels`: 1 or `pitch`."""
    return 1 if pixels.shape[1] == width_px else pitch


def cropped(pixels: UInt8[np.ndarray, "_h _w 3"], pitch: int, square: Square, image_px: int) -> NDArray[np.uint8]:
    """The square of the picture, [image_px, image_px, 3].

    Args:
        pitch: how many pixels of the picture, a side, are one of `pixels`.
    """
    left, top, side = (edge // pitch for edge in square)
    part = pixels[top : top + side, left : left + side]
    method = cv2.INTER_AREA if side > image_px else cv2.INTER_CUBIC
    resized: NDArray[np.uint8] = cv2.resize(part, (image_px, image_px), interpolation=method)
    return resized


def box_shares(boxes: Float[np.ndarray, "R 4"], square: Square) -> Float[np.ndarray, "R 4"]:
    """Boxes of the picture, xyxy in [0, 1] of the square, cut off at its edges."""
    left, top, side = square
    shares: NDArray[np.float32] = ((boxes - (left, top, left, top)) / side).clip(0, 1).astype(np.float32)
    return shares


def painted_box_shares(boxes: Float[np.ndarray, "R 4"], square: Square, image_px: int) -> Float[np.ndarray, "R 4"]:
    """The first and the last pixel of the crop that show each box, xyxy as shares of the crop's side.

    A pixel of the crop shows the pixel of the image in its middle; the box holds all pixels of the image it touches.
    """
    edges, middles = np.floor(boxes), (np.arange(image_px) + 0.5) * square.side / image_px
    pixels = np.zeros(boxes.shape, np.float32)
    for axis, start in enumerate((square.left, square.top)):
        shown = np.floor(start + middles)
        pixels[:, axis] = np.searchsorted(shown, edges[:, axis], "left")
        pixels[:, axis + 2] = np.searchsorted(shown, edges[:, axis + 2], "right") - 1
    shares: NDArray[np.float32] = (pixels.clip(0, image_px - 1) / image_px).astype(np.float32)
    return shares
