"""Cuts subjects out of their picture and augments them, before `model/inputs/subject.py` makes the encoder's pictures.

The augmented picture differs from the subject's place in the image, so that the network learns the subject's identity
instead of copying the picture.
"""

from typing import NamedTuple

import cv2
import numpy as np
from jaxtyping import Bool, Float, UInt8
from numpy.typing import NDArray

from labeling.sdd.masks import decode_crop
from labeling.sdd.schema import Mask
from model.inputs.cavities import fill_cavities
from training.data.config import AugmentationConfig

_MAX_SCALE = 2
"""Largest size of a cut-out before augmentation, as a multiple of its final size; more would only cost time."""
_FROM_FRAME = np.array([[1, 0, -1], [0, 1, -1], [0, 0, 1]], np.float64)
"""Transform from the coordinates of a framed picture to those of the picture."""
_FROM_CENTRES = np.array([[1, 0, 0.5], [0, 1, 0.5], [0, 0, 1]], np.float64)
"""Transform from coordinates that are 0 at the centre of the first pixel to those that are 0 at its corner."""
_AFFINE = 1e-9
"""Largest perspective of a transform that counts as affine, per pixel."""


class Cutout(NamedTuple):
    """A subject with its surroundings, within the bounds of its mask."""

    pixels: UInt8[np.ndarray, "h w 3"]
    mask: Bool[np.ndarray, "h w"]


def cut_out(pixels: UInt8[np.ndarray, "_h _w 3"], reduction: int, mask: Mask, subject_px: int) -> Cutout:
    """Return the subject cut out of a picture, at most `_MAX_SCALE` times as large as the encoder's picture.

    Args:
        reduction: factor by which `pixels` were reduced.
        mask: mask in pixels of the full-size picture, not empty.
    """
    left, top = mask.x0 // reduction, mask.y0 // reduction
    inside = _reduce(mask, reduction)
    height, width = inside.shape
    shrink = max(height, width) / (_MAX_SCALE * subject_px)
    cut = Cutout(pixels[top : top + height, left : left + width], inside)
    return cut if shrink <= 1 else _shrink(cut, shrink)


def fill_mask_cavities(cut: Cutout) -> Cutout:
    """Return the cut-out with its mask's cavities filled, or unchanged if the new mask would be empty."""
    mask = fill_cavities(cut.mask)
    return cut._replace(mask=mask) if mask.any() else cut


def augment(cut: Cutout, config: AugmentationConfig, rng: np.random.Generator) -> Cutout:
    """Return the subject randomly mirrored, distorted in perspective and rotated, in a canvas that holds all of it.

    If no pixel of the subject is left, it is returned unchanged.
    """
    corners = _draw_corners(cut.mask.shape, config, rng)
    corners -= corners.min(axis=0)
    width, height = np.ceil(corners.max(axis=0)).astype(int).clip(1)
    transform = cv2.getPerspectiveTransform(_corners(cut.mask.shape), corners)
    warped = cv2.warpPerspective(_add_frame(cut), transform @ _FROM_FRAME, (width, height))
    # OpenCV separates channels several times faster than numpy reads every fourth byte.
    mask = cv2.extractChannel(warped, 3) >= 128
    pixels = cv2.cvtColor(warped, cv2.COLOR_RGBA2RGB)
    return Cutout(pixels, mask) if mask.any() else cut


def warp_to_square(
    cut: Cutout, config: AugmentationConfig, rng: np.random.Generator, side_px: int, pad: bool
) -> UInt8[np.ndarray, "_s _s 4"]:
    """Return the subject moved as by `augment`, by one bilinear warp to a square that it fills.

    Args:
        side_px: side of the square.
        pad: whether the square has the subject's longer side, or cuts it off at its shorter one.

    Returns:
        RGB, black around the subject, and the share of each pixel that the subject covers, 0 to 255.
    """
    corners = _draw_corners(cut.mask.shape, config, rng)
    transform = cv2.getPerspectiveTransform(_corners(cut.mask.shape), corners)
    outline = cv2.perspectiveTransform(_outline(cut.mask)[None], transform)[0]
    low, high = outline.min(axis=0), outline.max(axis=0)
    scale = side_px / float((high - low).max() if pad else (high - low).min())
    left, top = scale * (low + high) / 2 - side_px / 2
    # OpenCV's coordinates are those of the centres of pixels.
    to_square = np.array([[scale, 0, -left - 0.5], [0, scale, -top - 0.5], [0, 0, 1]]) @ transform @ _FROM_CENTRES
    where = cut.mask.view(np.uint8) * np.uint8(255)
    alone = cv2.copyTo(cv2.merge([*cv2.split(cut.pixels), where]), where)
    is_affine = bool(np.abs(to_square[2, :2]).max() < _AFFINE)
    if is_affine:
        warped: NDArray[np.uint8] = cv2.warpAffine(alone, to_square[:2] / to_square[2, 2], (side_px, side_px))
        return warped
    warped = cv2.warpPerspective(alone, to_square, (side_px, side_px))
    return warped


def _outline(mask: Bool[np.ndarray, "_h _w"]) -> Float[np.ndarray, "_n 2"]:
    """Return corners of pixels, x and y, whose hull is that of the mask: of each column's first and last pixel."""
    x = np.flatnonzero(mask.any(axis=0))
    columns = mask[:, x]
    tops, bottoms = columns.argmax(axis=0), len(mask) - columns[::-1].argmax(axis=0)
    points = np.stack([[x, x + 1, x, x + 1], [tops, tops, bottoms, bottoms]], axis=-1)
    return points.reshape(-1, 2).astype(np.float64)


def _add_frame(cut: Cutout) -> UInt8[np.ndarray, "_h _w 4"]:
    """Return pixels and mask as one picture, with a border of one pixel that repeats the pixels but not the mask."""
    pixels = cv2.copyMakeBorder(cut.pixels, 1, 1, 1, 1, cv2.BORDER_REPLICATE)
    mask = cv2.copyMakeBorder(cut.mask.view(np.uint8) * np.uint8(255), 1, 1, 1, 1, cv2.BORDER_CONSTANT)
    framed: NDArray[np.uint8] = cv2.merge([*cv2.split(pixels), mask])  # of single channels, merging is fast
    return framed


def _draw_corners(
    shape: tuple[int, ...], config: AugmentationConfig, rng: np.random.Generator
) -> Float[np.ndarray, "4 2"]:
    """Draw the positions to which the corners of the cut-out move."""
    is_flipped, is_in_perspective = rng.random(2) < (config.flip, config.perspective_chance)
    inwards = rng.uniform(0, config.perspective / 2, (4, 2)) * is_in_perspective
    angle = np.deg2rad(rng.uniform(-config.rotation_deg, config.rotation_deg))
    corners = _corners(shape)
    centre = corners.mean(axis=0)
    corners += 2 * inwards * (centre - corners)
    if is_flipped:
        corners[:, 0] = 2 * centre[0] - corners[:, 0]
    turn = np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]])
    turned: NDArray[np.float32] = ((corners - centre) @ turn).astype(np.float32)
    return turned


def _corners(shape: tuple[int, ...]) -> Float[np.ndarray, "4 2"]:
    height, width = shape
    return np.array([(0, 0), (width, 0), (width, height), (0, height)], np.float32)


def _reduce(mask: Mask, reduction: int) -> Bool[np.ndarray, "_h _w"]:
    """Return the mask on the decoded pixels within its bounds.

    It holds the pixels that are at least half inside, or, if there are none, those that are most inside.
    """
    columns = decode_crop(mask).T.view(np.uint8)  # run lengths fill columns: its order in memory is [_w, _h]
    if reduction == 1:
        whole: NDArray[np.bool_] = cv2.transpose(columns).view(np.bool_)
        return whole
    left, top = mask.x0 % reduction, mask.y0 % reduction
    right, bottom = -(left + mask.width_px) % reduction, -(top + mask.height_px) % reduction
    grey = cv2.copyMakeBorder(columns * np.uint8(255), left, right, top, bottom, cv2.BORDER_CONSTANT)
    reduced = cv2.resize(grey, None, fx=1 / reduction, fy=1 / reduction, interpolation=cv2.INTER_AREA)
    return _binary(cv2.transpose(reduced))


def _shrink(cut: Cutout, factor: float) -> Cutout:
    height, width = (max(1, round(side / factor)) for side in cut.mask.shape)
    pixels = cv2.resize(cut.pixels, (width, height), interpolation=cv2.INTER_AREA)
    grey = cv2.resize(cut.mask.astype(np.uint8) * np.uint8(255), (width, height), interpolation=cv2.INTER_AREA)
    return Cutout(pixels, _binary(grey))


def _binary(grey: NDArray[np.uint8]) -> NDArray[np.bool_]:
    inside: NDArray[np.bool_] = grey >= min(128, max(1, int(grey.max())))
    return inside
