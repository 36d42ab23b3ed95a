"""What the networks of the small Subject-Diffusion see: 64 px pictures of scenes, and subjects cut out of them."""

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from labeling.sdd.schema import Box
from miniature.world.backgrounds import BACKGROUNDS
from miniature.world.scenes import Pool, Scene, ScenesConfig, compose, paint, pose, render
from miniature.world.sprites import Sprite, sprites
from model.config import SubjectConfig
from model.inputs.subject import SubjectPictures

SIDE_PX = 64
_COMPOSED_PX = 2 * SIDE_PX
PLACES = tuple(noun for noun in BACKGROUNDS if noun not in {"floor", "carpet"})
"""The eight backgrounds whose pattern is not lost at 64 px."""
SCENES = ScenesConfig(
    width_px=(_COMPOSED_PX, _COMPOSED_PX),
    height_px=(_COMPOSED_PX, _COMPOSED_PX),
    subjects=(1, 2),
    backgrounds=PLACES,
    box_share=(0.12, 0.5),
)
"""Composed at twice the side and shrunk, as photographs are, so that edges are smooth."""
CUTOUTS = SCENES.model_copy(update={"box_share": (0.3, 0.6), "scene_light": (0.75, 1.12)})


@dataclass(frozen=True, slots=True)
class Shown:
    """A scene as it is shown."""

    scene: Scene
    image: NDArray[np.uint8]
    """RGB, [64, 64, 3]."""

    def box(self, index: int) -> Box:
        """Of a subject, in pixels of `image`."""
        box, shrunk = self.scene.subjects[index].box, SIDE_PX / _COMPOSED_PX
        return Box(x0=box.x0 * shrunk, y0=box.y0 * shrunk, x1=box.x1 * shrunk, y1=box.y1 * shrunk)


def shown(seed: Sequence[int], scenes: ScenesConfig = SCENES) -> Shown:
    """The picture of `seed`."""
    scene = compose(seed, scenes)
    shrunk = cv2.resize(scene.image, (SIDE_PX, SIDE_PX), interpolation=cv2.INTER_AREA)
    return Shown(scene, shrunk.astype(np.uint8))


def pixels(images: Sequence[NDArray[np.uint8]]) -> Tensor:
    """RGB images [H, W, 3] as [B, 3, H, W] in [-1, 1]."""
    return torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2).float() / 127.5 - 1.0


def pool(kept: Pool) -> list[Sprite]:
    """The trained sprites, or those held out."""
    return [sprite for sprite in sprites() if sprite.held_out == (kept is Pool.HELD_OUT)]


def alone(sprite: Sprite, rng: np.random.Generator) -> tuple[NDArray[np.uint8], NDArray[np.bool_]]:
    """`sprite` in a random pose on a plain ground of random colour: RGB [128, 128, 3], and where it is."""
    image = np.full((_COMPOSED_PX, _COMPOSED_PX, 3), rng.uniform(0, 255, 3), np.float32)
    layer = render(sprite, pose(rng, CUTOUTS, 1), _COMPOSED_PX, _COMPOSED_PX)
    paint(image, layer)
    image *= rng.uniform(*CUTOUTS.scene_light)
    mask = np.zeros(image.shape[:2], np.bool_)
    mask[layer.window] = layer.mask
    return image.clip(0, 255).astype(np.uint8), mask


class Cutouts:
    """Pictures of subjects alone, made as training and sampling make them."""

    def __init__(self, side_px: int = SIDE_PX) -> None:
        self._pictures = SubjectPictures(SubjectConfig(), side_px, (0.5, 0.5, 0.5), training=True)

    def __call__(self, sprite: Sprite, rng: np.random.Generator) -> NDArray[np.uint8]:
        """`sprite` in a random pose, cut out; RGB, [side, side, 3]."""
        cut: NDArray[np.uint8] = self._pictures(*alone(sprite, rng), rng)
        return cut
