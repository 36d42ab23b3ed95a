"""Decodes and crops the training image: a square of the picture, at the size that the network is trained at."""

import cv2
import numpy as np
from jaxtyping import Float, UInt8
from numpy.typing import NDArray

from labeling.sdd.pixels import UndecodableImage, decode
from training.data.errors import PoisonedRow
from training.data.placement import Square

_REDUCTIONS = (8, 4, 2)


def choose_reduction(width_px: int, height_px: int, image_px: int) -> int:
    """Return the factor by which a JPEG decoder may reduce the picture and still fill the crop: 1, 2, 4 or 8."""
    return next((reduction for reduction in _REDUCTIONS if min(width_px, height_px) // reduction >= image_px), 1)


def decode_picture(encoded: bytes, width_px: int, height_px: int, reduction: int) -> UInt8[np.ndarray, "_h _w 3"]:
    """Decode the picture upright, reduced by the factor `reduction` if its format allows it, otherwise at full size.

    Raises:
        PoisonedRow: the picture cannot be decoded, or does not have the size that boxes and masks refer to.
    """
    try:
        pixels = decode(encoded, reduction=reduction)
    except UndecodableImage as error:
        raise PoisonedRow(error.reason, str(error)) from error
    sizes = {(-(-height_px // step), -(-width_px // step)) for step in (1, reduction)}
    if pixels.shape[:2] not in sizes:
        size = "x".join(map(str, pixels.shape[1::-1]))
        raise PoisonedRow("other_size", f"the image decodes to {size}, but its row has {width_px}x{height_px}")
    return pixels


def actual_reduction(pixels: UInt8[np.ndarray, "_h _w 3"], width_px: int, reduction: int) -> int:
    """Return the factor by which `pixels` were reduced: 1 or `reduction`."""
    return 1 if pixels.shape[1] == width_px else reduction


def crop_square(
    pixels: UInt8[np.ndarray, "_h _w 3"], reduction: int, square: Square, image_px: int
) -> NDArray[np.uint8]:
    """Return the square of the picture, resized to [image_px, image_px, 3].

    Args:
        reduction: factor by which `pixels` were reduced.
    """
    left, top, side = (edge // reduction for edge in square)
    part = pixels[top : top + side, left : left + side]
    if side == image_px:
        return part
    method = cv2.INTER_AREA if side > image_px else cv2.INTER_CUBIC
    resized: NDArray[np.uint8] = cv2.resize(part, (image_px, image_px), interpolation=method)
    return resized


def crop_boxes(boxes: Float[np.ndarray, "R 4"], square: Square) -> Float[np.ndarray, "R 4"]:
    """Return boxes of the picture as xyxy in [0, 1] of the square, clipped at its edges."""
    left, top, side = square
    shares: NDArray[np.float32] = ((boxes - (left, top, left, top)) / side).clip(0, 1).astype(np.float32)
    return shares


def crop_pixel_boxes(boxes: Float[np.ndarray, "R 4"], square: Square, image_px: int) -> Float[np.ndarray, "R 4"]:
    """Return the first and the last pixel of the crop that show each box, xyxy as shares of the crop's side.

    A pixel of the crop shows the pixel of the image at its centre; a box holds all pixels of the image that it touches.
    """
    edges, middles = np.floor(boxes), (np.arange(image_px) + 0.5) * square.side / image_px
    pixels = np.zeros(boxes.shape, np.float32)
    for axis, start in enumerate((square.left, square.top)):
        shown = np.floor(start + middles)
        pixels[:, axis] = np.searchsorted(shown, edges[:, axis], "left")
        pixels[:, axis + 2] = np.searchsorted(shown, edges[:, axis + 2], "right") - 1
    shares: NDArray[np.float32] = (pixels.clip(0, image_px - 1) / image_px).astype(np.float32)
    return shares
