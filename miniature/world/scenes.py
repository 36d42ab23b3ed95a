"""Composes scenes with exact ground truth: sprites on a background, and the caption that names them.

    scene = compose(seed=7, config=ScenesConfig(width_px=(192, 192), height_px=(192, 192)))

All random draws follow from the seed, so every process composes the same scene. A pixel belongs to the last painted
subject that covers at least half of it; boxes are the bounds of the visible parts.
"""

import difflib
import math
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from functools import cache

import cv2
import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from infra.config import Config
from infra.ranges import Count, Factor, Pixels, Share, ShareBelowOne
from labeling.sdd.schema import Box
from miniature.world.backgrounds import BACKGROUNDS, PATTERNS, UNTAUGHT, Background
from miniature.world.sprites import SIDES_PX, Sprite, cutout, outline, sprites
from miniature.world.textures import TEXTURES, draw_texture

Seed = int | Sequence[int]
_TRIES = 15
"""Number of places that are tried for a subject before it is left out."""
_MARGIN_PX = 3
"""Pixels around a subject's hull that interpolation may change."""


class Pool(StrEnum):
    """Set of sprites that may be subjects."""

    TRAINED = "trained"
    HELD_OUT = "held_out"
    ALL = "all"


class ScenesConfig(Config):
    """Appearance of scenes. Pairs are the smallest and the largest value of a draw, both inclusive."""

    width_px: tuple[Pixels, Pixels] = (384, 512)
    """Width of the image in pixels."""
    height_px: tuple[Pixels, Pixels] = (384, 512)
    """Height of the image in pixels."""
    subjects: tuple[Count, Count] = (1, 5)
    """Number of subjects; a scene has fewer if there is no room for one."""
    pool: Pool = Pool.TRAINED
    """Set of sprites that may be subjects."""
    names: tuple[str, ...] = ()
    """Names of the sprites of the pool that may be subjects; empty allows all of them."""
    backgrounds: tuple[str, ...] = tuple(BACKGROUNDS)
    """Nouns of the backgrounds to use."""
    texture_share: Share = 0.0
    """Share of scenes, 0 to 1, on one of the textures of `textures.py`, which are for training, instead of a
    background."""
    box_share: tuple[Share, Share] = (0.03, 0.5)
    """Share of the image that a subject's whole box covers, 0 to 1, log-uniform. The upper end is for one subject and
    decreases with the square root of their number."""
    spread: Share = 1.0
    """Share of the free width and height, around the middle, over which subjects are placed; 0 centres all."""
    min_visible: float = Field(default=0.8, gt=0.0, le=1.0)
    """Smallest share of each subject that stays visible, 0 to 1."""
    max_rotation_deg: float = Field(default=15.0, ge=0, le=180)
    """Largest rotation in either direction, in degrees; 0 turns rotation off."""
    max_perspective: ShareBelowOne = 0.25
    """Largest perspective tilt: change of depth over a subject's longest side; 0 shows all subjects face-on."""
    flip_share: Share = 0.5
    """Share of subjects that are mirrored, 0 to 1."""
    subject_light: tuple[Factor, Factor] = (0.85, 1.1)
    """Factor of the brightness of each subject."""
    scene_light: tuple[Factor, Factor] = (0.75, 1.12)
    """Factor of the brightness of the whole scene."""
    shadow: Share = 0.3
    """Darkness of the soft shadow under a subject, 0 to 1; shadows belong to no mask."""
    class_word_share: Share = 0.25
    """Share of subjects that the caption calls by their class word, 0 to 1. A subject whose class another one shares is
    always called by its name, so that no word of the caption fits two subjects."""


DEFAULTS = ScenesConfig()
"""Default settings of scenes."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Pose:
    """Position, size and orientation of a sprite in a scene."""

    box_share: float
    """Share of the image that its box covers, 0 to 1."""
    angle_deg: float
    """Rotation in degrees, anticlockwise."""
    flip: bool
    """Whether it is mirrored."""
    tilt: tuple[float, float]
    """Change of depth to the right and downwards over its longest side, -1 to 1."""
    light: float
    """Factor of its brightness."""
    right: float
    """Position of its box between the left and the right edge, 0 to 1."""
    down: float
    """Position of its box between the upper and the lower edge, 0 to 1."""


@dataclass(frozen=True, slots=True)
class Layer:
    """A sprite in its pose, as a patch of the image."""

    rgba: NDArray[np.float32]
    """Values 0 to 255, [h, w, 4], colour premultiplied by alpha."""
    x0: int
    """Left edge in pixels of the image."""
    y0: int
    """Upper edge in pixels of the image."""

    @property
    def window(self) -> tuple[slice, slice]:
        """Rows and columns of the image that the patch covers."""
        height, width = self.rgba.shape[:2]
        return slice(self.y0, self.y0 + height), slice(self.x0, self.x0 + width)

    @property
    def mask(self) -> NDArray[np.bool_]:
        """Whether it covers at least half of each pixel, [h, w]."""
        covered: NDArray[np.bool_] = self.rgba[..., 3] >= 127.5
        return covered


@dataclass(frozen=True, slots=True, kw_only=True)
class Subject:
    """A sprite of a scene and its visible region."""

    sprite: Sprite
    label: str
    """Word by which the caption calls it: its name or its class word."""
    mask: NDArray[np.bool_]
    """Pixels in which it is visible, [H, W]."""
    box: Box
    """Bounds of the mask."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Scene:
    """A picture with its ground truth."""

    image: NDArray[np.uint8]
    """RGB, [H, W, 3]."""
    caption: str
    """Every subject from left to right, then the place: "an apple, a fox and a train on the grass"."""
    background: str
    """Noun of the background."""
    subjects: tuple[Subject, ...]
    """Subjects from left to right."""


def compose(
    seed: Seed,
    config: ScenesConfig = DEFAULTS,
    members: Sequence[Sprite] = (),
) -> Scene:
    """Compose the scene of `seed` with the settings `config`.

    Args:
        seed: source of all random draws.
        config: appearance of the scene.
        members: sprites that may be subjects, instead of those that `config` selects; they need not be in the list.

    Raises:
        ValueError: `config` names an unknown sprite or background, or no sprite of the pool.
    """
    rng = np.random.default_rng(seed)
    height, width = (int(rng.integers(*side, endpoint=True)) for side in (config.height_px, config.width_px))
    background = _background(rng, config)
    image = background.draw(rng, height, width).astype(np.float32)
    placed, owner = _arrange(rng, image, members or _pool(config.pool, config.names), config)
    image *= rng.uniform(*config.scene_light)
    labels = _labels(rng, placed, config)
    subjects = sorted(
        (_subject(sprite, label, owner == i) for i, (sprite, label) in enumerate(zip(placed, labels, strict=True))),
        key=lambda s: (s.box.x0 + s.box.x1, s.box.y0),
    )
    return Scene(
        image=image.clip(0, 255).round().astype(np.uint8),
        caption=caption(subjects, background.place),
        background=background.noun,
        subjects=tuple(subjects),
    )


def caption(subjects: Sequence[Subject], place: str) -> str:
    """Return the caption: the subjects with articles, and the place: "a fox, some grapes and a train in the snow"."""
    phrases = [f"{_article(s.sprite, s.label)} {s.label}" for s in subjects]
    listed = " and ".join(filter(None, (", ".join(phrases[:-1]), phrases[-1])))
    return f"{listed} {place}"


def phrases() -> list[str]:
    """Return all parts of captions: the sprites by name and by class word, the places, and "and"."""
    named = [f"{article} {word}" for s in sprites() for article, word in _words(s)]
    return list(dict.fromkeys([*named, *(b.place for b in BACKGROUNDS.values()), "and"]))


def pose(rng: np.random.Generator, config: ScenesConfig, subjects: int) -> Pose:
    """Draw a random pose for one of `subjects` subjects."""
    low, high = config.box_share
    high = max(low, high / math.sqrt(subjects))
    return Pose(
        box_share=math.exp(rng.uniform(math.log(low), math.log(high))),
        angle_deg=rng.uniform(-config.max_rotation_deg, config.max_rotation_deg),
        flip=bool(rng.random() < config.flip_share),
        tilt=(rng.uniform(-1, 1) * config.max_perspective, rng.uniform(-1, 1) * config.max_perspective),
        light=rng.uniform(*config.subject_light),
        right=rng.random() * config.spread + (1 - config.spread) / 2,
        down=rng.random() * config.spread + (1 - config.spread) / 2,
    )


def render(sprite: Sprite, how: Pose, height_px: int, width_px: int) -> Layer:
    """Render `sprite` in its pose, completely inside an image of this size."""
    turn, tilt = _turn(how), np.array(how.tilt)
    flat = outline(sprite)
    hull = flat @ turn.T / (1 + flat @ tilt)[:, None]
    low, high = hull.min(axis=0), hull.max(axis=0)
    wide, tall = high - low
    side = math.sqrt(how.box_share * height_px * width_px / (wide * tall))
    side = min(side, (width_px - 2 * _MARGIN_PX) / wide, (height_px - 2 * _MARGIN_PX) / tall)
    frame = np.array((width_px, height_px))
    corner = _MARGIN_PX + (frame - 2 * _MARGIN_PX - side * (high - low)) * (how.right, how.down)
    start = np.maximum(np.floor(corner) - _MARGIN_PX, 0).astype(int)
    stop = np.minimum(np.ceil(corner + side * (high - low)) + _MARGIN_PX, frame).astype(int)
    patch = _warp(sprite, _homography(side * turn, tilt, corner - side * low - start), stop - start)
    patch[..., :3] *= how.light
    return Layer(patch, *map(int, start))


def paint(image: NDArray[np.float32], layer: Layer, shadow: float = 0.0) -> None:
    """Paint the shadow of `layer` and then `layer` itself on `image` [H, W, 3], in place."""
    if shadow:
        _cast_shadow(image, layer, shadow)
    patch = image[layer.window]
    patch *= 1 - layer.rgba[..., 3:] / 255
    patch += layer.rgba[..., :3]


def _background(rng: np.random.Generator, config: ScenesConfig) -> Background:
    if config.texture_share and rng.random() < config.texture_share:  # scenes without textures draw no number for them
        number = int(rng.integers(TEXTURES))
        return Background("pattern", "before the pattern", lambda _, height, width: draw_texture(number, height, width))
    places = BACKGROUNDS | UNTAUGHT | PATTERNS
    return places[_check_name(str(rng.choice(config.backgrounds)), places, "background")]


def _arrange(
    rng: np.random.Generator, image: NDArray[np.float32], pool: Sequence[Sprite], config: ScenesConfig
) -> tuple[list[Sprite], NDArray[np.int8]]:
    """Paint subjects of `pool` on `image`. Return them and, for each pixel, the index of the visible one or -1."""
    count = min(int(rng.integers(*config.subjects, endpoint=True)), len(pool))
    owner = np.full(image.shape[:2], -1, np.int8)
    placed: list[Sprite] = []
    whole_px = seen_px = np.zeros(0, int)
    for index in rng.permutation(len(pool))[:count]:
        for _ in range(_TRIES):
            layer = render(pool[index], pose(rng, config, count), *image.shape[:2])
            mask = layer.mask
            hidden_px = np.bincount(owner[layer.window][mask] + 1, minlength=len(placed) + 1)[1:]
            if (seen_px - hidden_px >= config.min_visible * whole_px).all():
                paint(image, layer, config.shadow)
                owner[layer.window][mask] = len(placed)
                placed.append(pool[index])
                whole_px = np.append(whole_px, mask.sum())
                seen_px = np.append(seen_px - hidden_px, mask.sum())
                break
    return placed, owner


def _turn(how: Pose) -> NDArray[np.float64]:
    """Return the matrix of mirroring and rotation, [2, 2] for x and y."""
    angle = math.radians(how.angle_deg)
    rotation = np.array([[math.cos(angle), math.sin(angle)], [-math.sin(angle), math.cos(angle)]])
    return rotation @ np.diag((-1.0 if how.flip else 1.0, 1.0))


def _homography(
    scaled: NDArray[np.float64], tilt: NDArray[np.float64], centre: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Return x -> scaled @ x / (1 + tilt . x) + centre as a matrix [3, 3]."""
    return np.block([[scaled + np.outer(centre, tilt), centre[:, None]], [tilt, 1.0]])


def _warp(sprite: Sprite, homography: NDArray[np.float64], size: NDArray[np.int_]) -> NDArray[np.float32]:
    """Return a patch of `size` with the transformed cutout, whose centre is 0 and whose longest side is 1."""
    target_px = math.sqrt(abs(float(np.linalg.det(homography))))
    pixels = cutout(sprite, next((side for side in SIDES_PX if side >= 0.8 * target_px), SIDES_PX[-1]))
    height, width = pixels.shape[:2]
    longest = max(height, width)
    to_unit = np.diag((1 / longest, 1 / longest, 1.0))
    to_unit[:2, 2] = -(width - 1) / 2 / longest, -(height - 1) / 2 / longest
    warped = cv2.warpPerspective(pixels, homography @ to_unit, size.tolist(), flags=cv2.INTER_LINEAR)
    patch: NDArray[np.float32] = warped.astype(np.float32)
    return patch


def _cast_shadow(image: NDArray[np.float32], layer: Layer, strength: float) -> None:
    """Darken `image` where the layer's blurred silhouette falls, a little below the layer."""
    height, width = layer.rgba.shape[:2]
    reach = max(1, min(height, width) // 12)
    y0, x0 = max(0, layer.y0 - reach), max(0, layer.x0 - reach)
    ground = image[y0 : layer.y0 + height + 3 * reach, x0 : layer.x0 + width + reach]
    silhouette = np.zeros(ground.shape[:2], np.float32)
    top, left = layer.y0 - y0 + reach, layer.x0 - x0
    target = silhouette[top : top + height, left : left + width]
    target[:] = layer.rgba[: target.shape[0], : target.shape[1], 3]
    blurred = cv2.blur(cv2.blur(silhouette, (2 * reach + 1, 2 * reach + 1)), (reach + 1, reach + 1))
    ground *= 1 - strength / 255 * blurred[..., None]


def _labels(rng: np.random.Generator, placed: Sequence[Sprite], config: ScenesConfig) -> list[str]:
    shared = Counter(sprite.class_word for sprite in placed)
    coarse = rng.random(len(placed)) < config.class_word_share
    return [s.class_word if c and shared[s.class_word] == 1 else s.name for s, c in zip(placed, coarse, strict=True)]


def _subject(sprite: Sprite, label: str, mask: NDArray[np.bool_]) -> Subject:
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    box = Box(x0=float(columns[0]), y0=float(rows[0]), x1=float(columns[-1] + 1), y1=float(rows[-1] + 1))
    return Subject(sprite=sprite, label=label, mask=mask, box=box)


def _words(sprite: Sprite) -> tuple[tuple[str, str], tuple[str, str]]:
    return (sprite.article, sprite.name), (sprite.class_article, sprite.class_word)


def _article(sprite: Sprite, label: str) -> str:
    return next(article for article, word in _words(sprite) if word == label)


@cache
def _pool(pool: Pool, names: tuple[str, ...]) -> tuple[Sprite, ...]:
    known = {sprite.name for sprite in sprites()}
    chosen = {_check_name(name, known, "sprite") for name in names}
    members = tuple(
        s
        for s in sprites()
        if (pool is Pool.ALL or s.held_out == (pool is Pool.HELD_OUT)) and (not chosen or s.name in chosen)
    )
    if not members:
        raise ValueError(f"none of the sprites {', '.join(names)} is in the pool {pool.value!r}: set another `pool`")
    return members


def _check_name(name: str, known: Iterable[str], kind: str) -> str:
    if name not in known:
        near = difflib.get_close_matches(name, list(known), n=3)
        raise ValueError(f"there is no {kind} {name!r}; close: {', '.join(near) or 'none'}")
    return name
