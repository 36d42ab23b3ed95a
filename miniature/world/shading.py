"""What backgrounds and textures are drawn with: coordinates, smooth noise, random numbers of cells, mixed colours.

Lengths are in units of 1/192 of the picture's smaller side, so a texture looks the same at every size.
"""

from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

Pixels = NDArray[np.floating[Any]]
"""RGB values 0 to 255, [H, W, 3], or one channel, [H, W]."""


def grid(height_px: int, width_px: int) -> tuple[Pixels, Pixels]:
    """Return row and column of every pixel, in units, each [H, W]."""
    unit = min(height_px, width_px) / 192
    y, x = np.mgrid[:height_px, :width_px].astype(np.float32) / np.float32(unit)
    return y, x


def noise(rng: np.random.Generator, height_px: int, width_px: int, cell: float, stretch: float = 1.0) -> Pixels:
    """Return smooth noise in [0, 1], [H, W], with cells `cell` units wide and `stretch` times as tall."""
    unit = min(height_px, width_px) / 192
    rows = max(2, round(height_px / max(1.0, cell * stretch * unit)))
    columns = max(2, round(width_px / max(1.0, cell * unit)))
    coarse = rng.random((rows, columns), np.float32)
    smooth: Pixels = cv2.resize(coarse, (width_px, height_px), interpolation=cv2.INTER_CUBIC)
    return smooth.clip(0, 1)


def hash_cells(row: Pixels, column: Pixels, seed: float) -> Pixels:
    """Return a pseudo-random number in [0, 1) that depends only on the pair of whole numbers and the seed."""
    waves = np.sin(row * 12.9898 + column * 78.233 + seed) * 437.585
    fraction: Pixels = (waves - np.floor(waves)).astype(np.float32)
    return fraction


def mix(share: Pixels, dark: NDArray[np.float64], bright: NDArray[np.float64]) -> Pixels:
    """Interpolate from `dark` (share 0) to `bright` (share 1), [H, W, 3]."""
    span = (bright - dark).astype(np.float32)
    mixed: Pixels = share.astype(np.float32)[..., None] * span + dark.astype(np.float32)
    return mixed
