"""Textures for training: random compositions of simple patterns in random palettes. A texture is named by its seed.

A network that sees few backgrounds learns them; one that sees hundreds learns what a subject's edge looks like. The
patterns of `backgrounds.UNTAUGHT` and `backgrounds.PATTERNS`, which are for scores only, are not among these: no
Voronoi cells, overlapping leaves, folds, rows of dots, print, crossed bands or wires.
"""

import colorsys
from collections.abc import Callable

import cv2
import numpy as np
from numpy.typing import NDArray

from miniature.world.shading import Pixels, grid, hash_cells, noise

Shade = Callable[[np.random.Generator, int, int], Pixels]
"""Draws values 0 to 1, [H, W], from a random generator, the height and the width in pixels."""
TEXTURES = 5000
"""Number of textures that scenes for training use: those of the seeds below it."""
_STREAM = 7001
"""Separates the random numbers of textures from those of scenes."""


def draw_texture(seed: int, height_px: int, width_px: int) -> Pixels:
    """Return the pixels of texture `seed`, [H, W, 3], 0 to 255: one to three coloured patterns and a light."""
    rng = np.random.default_rng((_STREAM, seed))
    image = _colored(rng, height_px, width_px)
    for _ in range(int(rng.integers(3))):
        share = _steep(rng, _pattern(rng, height_px, width_px))[..., None]
        image += (_colored(rng, height_px, width_px) - image) * share * rng.uniform(0.4, 1.0)
    light = 1 + rng.uniform(0, 0.5) * (octaves(rng, height_px, width_px) - 0.5)
    grain = rng.normal(0, rng.exponential(3.0), (height_px, width_px, 1))
    pixels: Pixels = (image * light[..., None] + grain).clip(0, 255).astype(np.float32)
    return pixels


def smooth(rng: np.random.Generator, height_px: int, width_px: int) -> Pixels:
    """Draw noise of one scale, at times drawn out."""
    return noise(rng, height_px, width_px, _log_uniform(rng, 1, 50), stretch=_log_uniform(rng, 0.2, 5))


def octaves(rng: np.random.Generator, height_px: int, width_px: int) -> Pixels:
    """Draw noise of six scales, whose contrast falls with the scale as in photographs."""
    fall, stretch = rng.uniform(0.45, 0.8), _log_uniform(rng, 0.5, 2)
    scales = [fall**i * noise(rng, height_px, width_px, 80 / 2**i, stretch) for i in range(6)]
    return _stretched(np.sum(scales, axis=0))


def stripes(rng: np.random.Generator, height_px: int, width_px: int) -> Pixels:
    """Draw straight or bent bands in any direction, as waves or with hard edges."""
    along, _ = _turned(rng, height_px, width_px)
    phase = along / _log_uniform(rng, 4, 40) + rng.uniform(0, 3) * octaves(rng, height_px, width_px)
    wave: Pixels = 0.5 + 0.5 * np.sin(2 * np.pi * phase)
    return wave if rng.random() < 0.4 else (wave > rng.uniform(0.2, 0.8)).astype(np.float32)


def tiles(rng: np.random.Generator, height_px: int, width_px: int) -> Pixels:
    """Draw rectangles in rows in any direction, each with its own tone."""
    along, across = _turned(rng, height_px, width_px)
    side = _log_uniform(rng, 6, 50)
    row = np.floor(along / side)
    column = np.floor(across / (side * rng.uniform(0.6, 3)) + rng.uniform(0, 0.5) * row)
    return hash_cells(row, column, float(rng.uniform(1, 100)))


def gradient(rng: np.random.Generator, height_px: int, width_px: int) -> Pixels:
    """Draw a run from one side to the other, or from a point outwards."""
    along, across = _turned(rng, height_px, width_px)
    return _stretched(along if rng.random() < 0.5 else np.hypot(along - along.mean(), across - rng.uniform(0, 192)))


def blobs(rng: np.random.Generator, height_px: int, width_px: int) -> Pixels:
    """Draw islands with bent edges."""
    return _steep(rng, octaves(rng, height_px, width_px))


def shards(rng: np.random.Generator, height_px: int, width_px: int) -> Pixels:
    """Draw pieces between straight lines at random, each with its own tone."""
    y, x = grid(height_px, width_px)
    sides = np.zeros((height_px, width_px), np.float32)
    for i in range(int(rng.integers(3, 10))):
        angle = rng.uniform(0, np.pi)
        middle = rng.uniform(0, 1) * (y[-1, 0] * np.cos(angle) + x[0, -1] * np.sin(angle))
        sides += 2**i * (y * np.cos(angle) + x * np.sin(angle) > middle)
    return hash_cells(sides, np.zeros_like(sides), float(rng.uniform(1, 100)))


def rings(rng: np.random.Generator, height_px: int, width_px: int) -> Pixels:
    """Draw waves around a point."""
    y, x = grid(height_px, width_px)
    distance = np.hypot(y - rng.uniform(-50, 250), x - rng.uniform(-50, 250))
    waves: Pixels = 0.5 + 0.5 * np.sin(2 * np.pi * distance / _log_uniform(rng, 6, 50))
    return waves


def discs(rng: np.random.Generator, height_px: int, width_px: int) -> Pixels:
    """Draw discs and rectangles of all sizes over each other, each with its own tone: things without a name."""
    unit = min(height_px, width_px) / 192
    image = np.full((height_px, width_px), rng.random(), np.float32)
    largest = _log_uniform(rng, 8, 60)
    for _ in range(int(rng.integers(4, 60))):
        x, y = (int(rng.uniform(0, side)) for side in (width_px, height_px))
        reach, tone = int(rng.uniform(0.3, 1) * largest * unit) + 1, float(rng.random())
        if rng.random() < 0.5:
            cv2.circle(image, (x, y), reach, tone, -1, cv2.LINE_AA)
        else:
            corners = cv2.boxPoints(((x, y), (2 * reach, reach * rng.uniform(0.5, 2)), rng.uniform(0, 90)))
            cv2.fillConvexPoly(image, corners.astype(np.int32), tone, cv2.LINE_AA)
    return image


SHADES: tuple[Shade, ...] = (smooth, octaves, octaves, stripes, tiles, gradient, blobs, shards, rings, discs)
"""Patterns, the one of photographs twice."""


def _pattern(rng: np.random.Generator, height_px: int, width_px: int) -> Pixels:
    return SHADES[rng.integers(len(SHADES))](rng, height_px, width_px)


def _colored(rng: np.random.Generator, height_px: int, width_px: int) -> Pixels:
    """Return a pattern in a palette, [H, W, 3]."""
    palette = _palette(rng)
    at = _pattern(rng, height_px, width_px).clip(0, 1).ravel() * (len(palette) - 1)
    channels = [np.interp(at, np.arange(len(palette)), palette[:, i]) for i in range(3)]
    colored: Pixels = np.stack(channels, axis=-1).reshape(height_px, width_px, 3).astype(np.float32)
    return colored


def _palette(rng: np.random.Generator) -> NDArray[np.float64]:
    """Return two to five colours 0 to 255, [N, 3], around a hue, from grey to vivid."""
    hue, spread = rng.random(), rng.choice((0.03, 0.12, 0.5))
    vivid = rng.beta(1.2, 1.8)
    colors = [
        colorsys.hsv_to_rgb(hue + rng.uniform(-spread, spread), vivid * rng.uniform(0.4, 1), rng.uniform(0.12, 1))
        for _ in range(int(rng.integers(2, 6)))
    ]
    return 255 * np.array(colors)


def _steep(rng: np.random.Generator, shade: Pixels) -> Pixels:
    """Return the shade with its middle tones on a slope, from soft to nearly a step."""
    slope: Pixels = 0.5 + (shade - rng.uniform(0.35, 0.65)) * _log_uniform(rng, 1.5, 40)
    return slope.clip(0, 1)


def _turned(rng: np.random.Generator, height_px: int, width_px: int) -> tuple[Pixels, Pixels]:
    """Return coordinates along and across a random direction, in units, each [H, W]."""
    y, x = grid(height_px, width_px)
    angle = rng.uniform(0, 2 * np.pi)
    return x * np.cos(angle) + y * np.sin(angle) + rng.uniform(0, 50), y * np.cos(angle) - x * np.sin(angle)


def _stretched(values: Pixels) -> Pixels:
    """Return the values moved and scaled to the range from 0 to 1."""
    low, high = values.min(), values.max()
    stretched: Pixels = (values - low) / max(high - low, 1e-6)
    return stretched


def _log_uniform(rng: np.random.Generator, low: float, high: float) -> float:
    return float(np.exp(rng.uniform(np.log(low), np.log(high))))
