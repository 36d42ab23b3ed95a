"""Backgrounds of scenes: procedural textures, each with its noun and the ending of a caption.

The networks are trained on `BACKGROUNDS`. `UNTAUGHT` and `PATTERNS` are for scores only; no training may use them,
nor anything drawn in the same way. Lengths are in units
of 1/192 of the picture's smaller side, so a texture looks the same at every size.
"""

from collections.abc import Callable
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from miniature.world.shading import Pixels, grid, hash_cells, mix, noise

Draw = Callable[[np.random.Generator, int, int], Pixels]


@dataclass(frozen=True, slots=True)
class Background:
    """A background: its word and its texture."""

    noun: str
    place: str
    """Ending of a caption, such as "on the grass"."""
    draw: Draw
    """Draws pixels [height_px, width_px, 3] from a random generator, the height and the width."""


def grass(rng: np.random.Generator, height_px: int, width_px: int) -> Pixels:
    """Draw blades of two greens over lighter and darker patches."""
    blades = noise(rng, height_px, width_px, 1.2, stretch=5.0)
    shade = 0.55 * blades + 0.45 * noise(rng, height_px, width_px, 30)
    dark, bright = rng.uniform((25, 85, 20), (50, 110, 40)), rng.uniform((105, 170, 55), (150, 205, 90))
    return mix(shade, dark, bright)


def sand(rng: np.random.Generator, height_px: int, width_px: int) -> Pixels:
    """Draw bent ripples and grain."""
    y, _ = grid(height_px, width_px)
    bend = noise(rng, height_px, width_px, 50)
    ripples = 0.5 + 0.5 * np.sin(y / rng.uniform(3, 5) + 9 * bend)
    shade = 0.4 * ripples + 0.3 * bend + 0.3 * noise(rng, height_px, width_px, 0.8)
    return mix(shade, rng.uniform((185, 145, 85), (205, 165, 110)), rng.uniform((235, 205, 145), (250, 225, 175)))


def water(rng: np.random.Generator, height_px: int, width_px: int) -> Pixels:
    """Draw waves that get longer towards the viewer, with bright crests."""
    y, x = grid(height_px, width_px)
    depth = (y + 60) ** 0.8
    swell = np.sin(depth / rng.uniform(1.2, 2.0) + 2 * np.sin(x / rng.uniform(14, 30) + rng.uniform(0, 6)))
    shade = 0.5 + 0.28 * swell + 0.4 * (noise(rng, height_px, width_px, 9, stretch=0.4) - 0.5)
    crests: Pixels = np.clip(shade - 0.85, 0, 1)[..., None] * 200
    return mix(shade, rng.uniform((5, 60, 120), (20, 95, 150)), rng.uniform((60, 150, 200), (110, 195, 230))) + crests


def snow(rng: np.random.Generator, height_px: int, width_px: int) -> Pixels:
    """Draw soft bluish drifts with a few glints."""
    shade = 0.8 * noise(rng, height_px, width_px, 45, stretch=0.6) + 0.2 * noise(rng, height_px, width_px, 3)
    glints = (rng.random((height_px, width_px), np.float32) > 0.998)[..., None] * 25
    return mix(shade, rng.uniform((185, 205, 230), (205, 220, 240)), np.array((248, 251, 255))) + glints


def floor(rng: np.random.Generator, height_px: int, width_px: int) -> Pixels:
    """Draw square tiles, alternating light and dark, with grout between."""
    y, x = grid(height_px, width_px)
    tile = rng.uniform(22, 42)
    row, column = (y + rng.uniform(0, tile)) / tile, (x + rng.uniform(0, tile)) / tile
    odd = (np.floor(row) + np.floor(column)) % 2
    shade = 0.75 * odd + 0.25 * noise(rng, height_px, width_px, 14)
    bright = rng.uniform((185, 175, 165), (235, 230, 225))
    dark = bright * rng.uniform(0.45, 0.8)
    return np.where(_seam(row, column, 1.2 / tile), 0.8 * dark, mix(shade, dark, bright))


def wall(rng: np.random.Generator, height_px: int, width_px: int) -> Pixels:
    """Draw bricks in running bond with pale mortar."""
    y, x = grid(height_px, width_px)
    tall = rng.uniform(11, 18)
    wide = 2.3 * tall
    row = (y + rng.uniform(0, tall)) / tall
    column = (x + rng.uniform(0, wide)) / wide + 0.5 * (np.floor(row) % 2)
    brick = hash_cells(np.floor(row), np.floor(column), float(rng.uniform(1, 100)))
    shade = 0.6 * brick + 0.4 * noise(rng, height_px, width_px, 2.5)
    bricks = mix(shade, rng.uniform((120, 50, 35), (150, 75, 55)), rng.uniform((185, 100, 75), (215, 130, 100)))
    mortar = mix(noise(rng, height_px, width_px, 1.5), np.array((180, 172, 162)), np.array((212, 206, 198)))
    return np.where(_seam(row, column, 1.6 / tall, 1.6 / wide), mortar, bricks)


def road(rng: np.random.Generator, height_px: int, width_px: int) -> Pixels:
    """Draw grey asphalt with a dashed line across."""
    y, x = grid(height_px, width_px)
    shade = 0.6 * noise(rng, height_px, width_px, 0.9) + 0.4 * noise(rng, height_px, width_px, 24)
    asphalt = mix(shade, rng.uniform((55, 55, 58), (75, 75, 80)), rng.uniform((105, 105, 108), (130, 130, 135)))
    along, across = (x, y) if rng.random() < 0.5 else (y, x)
    paint = (np.abs(across - rng.uniform(40, 150)) < 4) & ((along + rng.uniform(0, 60)) % 60 < 36)
    return np.where(paint[..., None], 0.35 * asphalt + np.array((150, 150, 140)), asphalt)


def table(rng: np.random.Generator, height_px: int, width_px: int) -> Pixels:
    """Draw wooden boards, each with its own tone and grain."""
    y, _ = grid(height_px, width_px)
    board = rng.uniform(24, 44)
    row = (y + rng.uniform(0, board)) / board
    tone = hash_cells(np.floor(row), np.zeros_like(row), float(rng.uniform(1, 100)))
    grain = np.sin(6 * noise(rng, height_px, width_px, 12, stretch=0.15) + y / 1.6)
    shade = 0.5 + 0.35 * (tone - 0.5) + 0.15 * grain + 0.3 * (noise(rng, height_px, width_px, 40) - 0.5)
    dark = rng.uniform((85, 50, 25), (125, 80, 45))
    return np.where(_seam(row, None, 1.2 / board), 0.6 * dark, mix(shade, dark, dark + rng.uniform(60, 85)))


def carpet(rng: np.random.Generator, height_px: int, width_px: int) -> Pixels:
    """Draw diamonds in two colours over a coarse weave."""
    y, x = grid(height_px, width_px)
    period = rng.uniform(26, 46)
    diamonds = np.abs((x / period) % 1 - 0.5) + np.abs((y / period) % 1 - 0.5)
    pattern = (np.abs(diamonds - 0.5) < 0.12) | (diamonds < 0.14)
    weave = 0.5 + 0.5 * np.sin(2.2 * x) * np.sin(2.2 * y)
    ground = rng.uniform((95, 25, 40), (165, 60, 130))
    thread = rng.uniform((205, 170, 110), (240, 215, 170))
    colours = np.where(pattern[..., None], thread, ground)
    light: Pixels = 0.8 + 0.25 * weave + 0.12 * noise(rng, height_px, width_px, 30)
    return colours * light[..., None]


def sky(rng: np.random.Generator, height_px: int, width_px: int) -> Pixels:
    """Draw blue that pales downwards, with thin veils of cloud."""
    y, _ = grid(height_px, width_px)
    puffs = 0.65 * noise(rng, height_px, width_px, 40, stretch=0.5) + 0.35 * noise(rng, height_px, width_px, 13)
    veil = np.clip(2.4 * puffs - 1.1, 0, 0.75)
    high, low = rng.uniform((40, 100, 190), (80, 150, 230)), rng.uniform((150, 200, 235), (190, 225, 245))
    blue = mix(y / y.max(), high, low)
    return blue + (np.array((250, 250, 252)) - blue) * veil[..., None]


def mosaic(rng: np.random.Generator, height_px: int, width_px: int) -> Pixels:
    """Draw stones of all colours side by side, each darker towards its edge."""
    unit = min(height_px, width_px) / 192
    seeds = np.ones((height_px, width_px), np.uint8)
    count = int(rng.integers(120, 260))
    seeds[rng.integers(height_px, size=count), rng.integers(width_px, size=count)] = 0
    _, owner = cv2.distanceTransformWithLabels(seeds, cv2.DIST_L2, 5, labelType=cv2.DIST_LABEL_PIXEL)
    inside = np.ones_like(seeds)
    inside[:, 1:][owner[:, 1:] != owner[:, :-1]] = 0
    inside[1:][owner[1:] != owner[:-1]] = 0
    depth = cv2.distanceTransform(inside, cv2.DIST_L2, 5) / unit
    tones = rng.uniform((90, 85, 80), (215, 205, 190), (count + 1, 3))
    stones: Pixels = tones[owner] * (0.25 + 0.75 * np.clip(depth / 2.5, 0, 1))[..., None]
    return stones


def leaves(rng: np.random.Generator, height_px: int, width_px: int) -> Pixels:
    """Draw fallen leaves over each other, yellow to brown."""
    unit = min(height_px, width_px) / 192
    image = np.full((height_px, width_px, 3), rng.uniform((50, 35, 20), (80, 60, 35)), np.float32)
    for _ in range(int(rng.integers(350, 600))):
        centre = rng.uniform((0, 0), (width_px, height_px)).astype(int).tolist()
        longest, narrow = rng.uniform(5, 13) * unit, rng.uniform(0.35, 0.6)
        axes, colour = (int(longest), int(longest * narrow)), rng.uniform((110, 50, 10), (230, 170, 60)).tolist()
        cv2.ellipse(image, centre, axes, float(rng.uniform(0, 180)), 0, 360, colour, -1, cv2.LINE_AA)
    return image


def curtain(rng: np.random.Generator, height_px: int, width_px: int) -> Pixels:
    """Draw cloth in one colour that hangs in soft folds."""
    y, x = grid(height_px, width_px)
    bend = 10 * noise(rng, height_px, width_px, 60, stretch=3.0)
    folds = 0.5 + 0.35 * np.sin((x + bend) / rng.uniform(4, 9)) + 0.15 * np.sin((x - bend) / rng.uniform(2, 4))
    bright = rng.uniform((60, 60, 60), (235, 235, 235))
    return mix(np.clip(folds + 0.0005 * y, 0, 1), 0.35 * bright, bright)


def wallpaper(rng: np.random.Generator, height_px: int, width_px: int) -> Pixels:
    """Draw dots in rows, every other row shifted, on paper of one colour."""
    y, x = grid(height_px, width_px)
    period = rng.uniform(14, 30)
    row = np.floor(y / period)
    across = (x + period / 2 * (row % 2)) % period - period / 2
    dots = np.hypot(across, y % period - period / 2) < rng.uniform(0.2, 0.36) * period
    paper, ink = rng.uniform((150, 150, 150), (250, 250, 250)), rng.uniform((20, 20, 20), (220, 220, 220))
    light: Pixels = 0.95 + 0.05 * noise(rng, height_px, width_px, 40)
    return np.where(dots[..., None], ink, paper) * light[..., None]


def newsprint(rng: np.random.Generator, height_px: int, width_px: int) -> Pixels:
    """Draw columns of dark print on pale paper: words of all lengths in lines."""
    y, x = grid(height_px, width_px)
    line = rng.uniform(4, 9)
    row = (y + rng.uniform(0, line)) / line
    column_wide = rng.uniform(40, 80)
    word = hash_cells(np.floor(row), np.floor(x / rng.uniform(2, 4)), float(rng.uniform(1, 100))) > 0.25
    letters = hash_cells(np.floor(row * 3), np.floor(x / 0.9), float(rng.uniform(1, 100))) > 0.3
    inked = word & letters & (row % 1 < 0.6) & (x % column_wide > 6)
    paper, ink = rng.uniform((205, 200, 185), (250, 248, 240)), rng.uniform((15, 15, 15), (70, 70, 75))
    sheet = mix(noise(rng, height_px, width_px, 40), 0.92 * paper, paper)
    return np.where(inked[..., None], ink, sheet)


def plaid(rng: np.random.Generator, height_px: int, width_px: int) -> Pixels:
    """Draw woven bands of several widths that cross, the same in both directions."""
    y, x = grid(height_px, width_px)
    period = rng.uniform(40, 80)
    edges = np.sort(rng.uniform(0, 1, 5))
    colors = rng.uniform((20, 20, 20), (235, 220, 220), (6, 3))
    across, down = (colors[np.searchsorted(edges, (at / period) % 1)] for at in (x, y))
    over = ((np.floor(x / 1.2) + np.floor(y / 1.2)) % 2)[..., None]
    woven: Pixels = 0.5 * (across + down) + 0.2 * (over - 0.5) * (across - down)
    return woven


def fence(rng: np.random.Generator, height_px: int, width_px: int) -> Pixels:
    """Draw bright wires in diamonds before a blurred ground."""
    y, x = grid(height_px, width_px)
    mesh, wire = rng.uniform(14, 30), rng.uniform(0.8, 1.8)
    low, high = rng.uniform((20, 30, 20), (120, 130, 120)), rng.uniform((90, 100, 80), (200, 210, 220))
    image = mix(noise(rng, height_px, width_px, 35), low, high)
    for sign in (-1, 1):
        distance = np.abs((x + sign * y + rng.uniform(0, mesh)) % mesh - mesh / 2)
        shine = np.clip(1.5 - distance / wire, 0, 1)[..., None]
        image = image + (rng.uniform(170, 245) - image) * shine
    return image


def _by_noun(*backgrounds: Background) -> dict[str, Background]:
    return {background.noun: background for background in backgrounds}


BACKGROUNDS = _by_noun(
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
UNTAUGHT = _by_noun(
    Background("mosaic", "on the mosaic", mosaic),
    Background("leaves", "on the leaves", leaves),
    Background("curtain", "before the curtain", curtain),
    Background("wallpaper", "before the wallpaper", wallpaper),
)
PATTERNS = _by_noun(
    Background("newsprint", "on the newsprint", newsprint),
    Background("plaid", "on the plaid", plaid),
    Background("fence", "before the fence", fence),
)
"""Untaught too, and made after the textures for training."""


def _seam(row: Pixels, column: Pixels | None, tall: float, wide: float | None = None) -> NDArray[np.bool_]:
    """Return whether each pixel is at the start of a row or column of tiles, [H, W, 1]."""
    seam = row % 1 < tall
    if column is not None:
        seam = seam | (column % 1 < (tall if wide is None else wide))
    joint: NDArray[np.bool_] = seam[..., None]
    return joint
