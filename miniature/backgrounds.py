"""What the subjects of a scene stand on or before: procedural textures, each with its noun and its place.

Lengths inside are in units of 1/192 of the picture's smaller side, so a texture looks the same at every size.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

Pixels = NDArray[np.floating[Any]]
"""RGB 0..255, [H, W, 3]; or one channel, [H, W]."""
Draw = Callable[[np.random.Generator, int, int], Pixels]


@dataclass(frozen=True, slots=True)
class Background:
    """A place: its word and its texture."""

    noun: str
    place: str
    """How a caption ends: "on the grass"."""
    draw: Draw
    """Pixels [height_px, width_px, 3] from a random generator and the two sizes, in this order."""


def grass(rng: np.random.Generator, height_px: int, width_px: int) -> Pixels:
    """Blades of two greens over lighter and darker patches."""
    blades = _noise(rng, height_px, width_px, 1.2, stretch=5.0)
    shade = 0.55 * blades + 0.45 * _noise(rng, height_px, width_px, 30)
    dark, bright = rng.uniform((25, 85, 20), (50, 110, 40)), rng.uniform((105, 170, 55), (150, 205, 90))
    return _mix(shade, dark, bright)


def sand(rng: np.random.Generator, height_px: int, width_px: int) -> Pixels:
    """Bent ripples and grain."""
    y, _ = _grid(height_px, width_px)
    bend = _noise(rng, height_px, width_px, 50)
    ripples = 0.5 + 0.5 * np.sin(y / rng.uniform(3, 5) + 9 * bend)
    shade = 0.4 * ripples + 0.3 * bend + 0.3 * _noise(rng, height_px, width_px, 0.8)
    return _mix(shade, rng.uniform((185, 145, 85), (205, 165, 110)), rng.uniform((235, 205, 145), (250, 225, 175)))


def water(rng: np.random.Generator, height_px: int, width_px: int) -> Pixels:
    """Waves that get longer towards the viewer, with bright crests."""
    y, x = _grid(height_px, width_px)
    depth = (y + 60) ** 0.8
    swell = np.sin(depth / rng.uniform(1.2, 2.0) + 2 * np.sin(x / rng.uniform(14, 30) + rng.uniform(0, 6)))
    shade = 0.5 + 0.28 * swell + 0.4 * (_noise(rng, height_px, width_px, 9, stretch=0.4) - 0.5)
    crests: Pixels = np.clip(shade - 0.85, 0, 1)[..., None] * 200
    return _mix(shade, rng.uniform((5, 60, 120), (20, 95, 150)), rng.uniform((60, 150, 200), (110, 195, 230))) + crests


def snow(rng: np.random.Generator, height_px: int, width_px: int) -> Pixels:
    """Soft bluish drifts with a few glints."""
    shade = 0.8 * _noise(rng, height_px, width_px, 45, stretch=0.6) + 0.2 * _noise(rng, height_px, width_px, 3)
    glints = (rng.random((height_px, width_px), np.float32) > 0.998)[..., None] * 25
    return _mix(shade, rng.uniform((185, 205, 230), (205, 220, 240)), np.array((248, 251, 255))) + glints


def floor(rng: np.random.Generator, height_px: int, width_px: int) -> Pixels:
    """Square tiles, light and dark in turn, with grout between."""
    y, x = _grid(height_px, width_px)
    tile = rng.uniform(22, 42)
    row, column = (y + rng.uniform(0, tile)) / tile, (x + rng.uniform(0, tile)) / tile
    odd = (np.floor(row) + np.floor(column)) % 2
    shade = 0.75 * odd + 0.25 * _noise(rng, height_px, width_px, 14)
    bright = rng.uniform((185, 175, 165), (235, 230, 225))
    dark = bright * rng.uniform(0.45, 0.8)
    return np.where(_seam(row, column, 1.2 / tile), 0.8 * dark, _mix(shade, dark, bright))


def wall(rng: np.random.Generator, height_px: int, width_px: int) -> Pixels:
    """Bricks in running bond with pale mortar."""
    y, x = _grid(height_px, width_px)
    tall = rng.uniform(11, 18)
    wide = 2.3 * tall
    row = (y + rng.uniform(0, tall)) / tall
    column = (x + rng.uniform(0, wide)) / wide + 0.5 * (np.floor(row) % 2)
    brick = _hash(np.floor(row), np.floor(column), float(rng.uniform(1, 100)))
    shade = 0.6 * brick + 0.4 * _noise(rng, height_px, width_px, 2.5)
    bricks = _mix(shade, rng.uniform((120, 50, 35), (150, 75, 55)), rng.uniform((185, 100, 75), (215, 130, 100)))
    mortar = _mix(_noise(rng, height_px, width_px, 1.5), np.array((180, 172, 162)), np.array((212, 206, 198)))
    return np.where(_seam(row, column, 1.6 / tall, 1.6 / wide), mortar, bricks)


def road(rng: np.random.Generator, height_px: int, width_px: int) -> Pixels:
    """Grey asphalt with a dashed line across."""
    y, x = _grid(height_px, width_px)
    shade = 0.6 * _noise(rng, height_px, width_px, 0.9) + 0.4 * _noise(rng, height_px, width_px, 24)
    asphalt = _mix(shade, rng.uniform((55, 55, 58), (75, 75, 80)), rng.uniform((105, 105, 108), (130, 130, 135)))
    along, across = (x, y) if rng.random() < 0.5 else (y, x)
    paint = (np.abs(across - rng.uniform(40, 150)) < 4) & ((along + rng.uniform(0, 60)) % 60 < 36)
    return np.where(paint[..., None], 0.35 * asphalt + np.array((150, 150, 140)), asphalt)


def table(rng: np.random.Generator, height_px: int, width_px: int) -> Pixels:
    """Wooden boards, each with its own tone and grain."""
    y, _ = _grid(height_px, width_px)
    board = rng.uniform(24, 44)
    row = (y + rng.uniform(0, board)) / board
    tone = _hash(np.floor(row), np.zeros_like(row), float(rng.uniform(1, 100)))
    grain = np.sin(6 * _noise(rng, height_px, width_px, 12, stretch=0.15) + y / 1.6)
    shade = 0.5 + 0.35 * (tone - 0.5) + 0.15 * grain + 0.3 * (_noise(rng, height_px, width_px, 40) - 0.5)
    dark = rng.uniform((85, 50, 25), (125, 80, 45))
    return np.where(_seam(row, None, 1.2 / board), 0.6 * dark, _mix(shade, dark, dark + rng.uniform(60, 85)))


def carpet(rng: np.random.Generator, height_px: int, width_px: int) -> Pixels:
    """Diamonds in two colours over a coarse weave."""
    y, x = _grid(height_px, width_px)
    period = rng.uniform(26, 46)
    diamonds = np.abs((x / period) % 1 - 0.5) + np.abs((y / period) % 1 - 0.5)
    pattern = (np.abs(diamonds - 0.5) < 0.12) | (diamonds < 0.14)
    weave = 0.5 + 0.5 * np.sin(2.2 * x) * np.sin(2.2 * y)
    ground = rng.uniform((95, 25, 40), (165, 60, 130))
    thread = rng.uniform((205, 170, 110), (240, 215, 170))
    colours = np.where(pattern[..., None], thread, ground)
    light: Pixels = 0.8 + 0.25 * weave + 0.12 * _noise(rng, height_px, width_px, 30)
    return colours * light[..., None]


def sky(rng: np.random.Generator, height_px: int, width_px: int) -> Pixels:
    """Blue that pales downwards, with thin veils of cloud."""
    y, _ = _grid(height_px, width_px)
    puffs = 0.65 * _noise(rng, height_px, width_px, 40, stretch=0.5) + 0.35 * _noise(rng, height_px, width_px, 13)
    veil = np.clip(2.4 * puffs - 1.1, 0, 0.75)
    high, low = rng.uniform((40, 100, 190), (80, 150, 230)), rng.uniform((150, 200, 235), (190, 225, 245))
    blue = _mix(y / y.max(), high, low)
    return blue + (np.array((250, 250, 252)) - blue) * veil[..., None]


BACKGROUNDS = {
    background.noun: background
    for background in (
        Background("grass", "on the grass", grass),
        Background("sand", "on the sand", sand),
        Background("water", "on the water", water),
        Background("snow", "in the snow", snow),
        Background("floor", "on the floor", floor),
        Background("wall", "by the wall", wall),
        Background("road", "on the road", road),
        Background("table", "on the table", table),
        Background("carpet", "on the carpet", carpet),
        Background("sky", "in the sky", sky),
    )
}


def _grid(height_px: int, width_px: int) -> tuple[Pixels, Pixels]:
    """Row and column of every pixel, in units, each [H, W]."""
    unit = min(height_px, width_px) / 192
    y, x = np.mgrid[:height_px, :width_px].astype(np.float32) / np.float32(unit)
    return y, x


def _noise(rng: np.random.Generator, height_px: int, width_px: int, cell: float, stretch: float = 1.0) -> Pixels:
    """Smooth noise in [0, 1], [H, W]; `cell` units wide and `stretch` times as tall."""
    unit = min(height_px, width_px) / 192
    rows = max(2, round(height_px / max(1.0, cell * stretch * unit)))
    columns = max(2, round(width_px / max(1.0, cell * unit)))
    coarse = rng.random((rows, columns), np.float32)
    smooth: Pixels = cv2.resize(coarse, (width_px, height_px), interpolation=cv2.INTER_CUBIC)
    return smooth.clip(0, 1)


def _hash(row: Pixels, column: Pixels, seed: float) -> Pixels:
    """A number in [0, 1) for each pair of whole numbers, the same wherever the pair comes up."""
    waves = np.sin(row * 12.9898 + column * 78.233 + seed) * 437.585
    fraction: Pixels = (waves - np.floor(waves)).astype(np.float32)
    return fraction


def _seam(row: Pixels, column: Pixels | None, tall: float, wide: float | None = None) -> NDArray[np.bool_]:
    """Where a new row or column has just begun, [H, W, 1]."""
    seam = row % 1 < tall
    if column is not None:
        seam = seam | (column % 1 < (tall if wide is None else wide))
    joint: NDArray[np.bool_] = seam[..., None]
    return joint


def _mix(share: Pixels, dark: NDArray[np.float64], bright: NDArray[np.float64]) -> Pixels:
    """From `dark` (share 0) to `bright` (share 1), [H, W, 3]."""
    span = (bright - dark).astype(np.float32)
    mixed: Pixels = share.astype(np.float32)[..., None] * span + dark.astype(np.float32)
    return mixed
