"""Pictures for the networks of the small Subject-Diffusion: scenes at 64 px, and subjects cut out of them."""

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
"""The eight backgrounds whose pattern is visible at 64 px."""
SCENES = ScenesConfig(
    width_px=(_COMPOSED_PX, _COMPOSED_PX),
    height_px=(_COMPOSED_PX, _COMPOSED_PX),
    subjects=(1, 2),
    backgrounds=PLACES,
    box_share=(0.12, 0.5),
)
"""Settings of scenes, which are composed at twice the side and shrunk, so that edges are smooth."""
CUTOUTS = SCENES.model_copy(update={"box_share": (0.3, 0.6), "scene_light": (0.75, 1.12)})


@dataclass(frozen=True, slots=True)
class ScenePicture:
    """A scene with its shrunk picture."""

    scene: Scene
    image: NDArray[np.uint8]
    """RGB, [64, 64, 3]."""

    def box(self, index: int) -> Box:
        """Return the box of a subject, in pixels of `image`."""
        box, shrunk = self.scene.subjects[index].box, SIDE_PX / _COMPOSED_PX
        return Box(x0=box.x0 * shrunk, y0=box.y0 * shrunk, x1=box.x1 * shrunk, y1=box.y1 * shrunk)


def scene_pixels(scenes: Sequence[Scene], side_px: int) -> Tensor:
    """Return the images of scenes at a size, at most that of `SCENES`: [B, 3, side, side] in [-1, 1]."""
    return pixels([shrink(scene.image, side_px) for scene in scenes])


def scene_picture(seed: Sequence[int], scenes: ScenesConfig = SCENES, members: Sequence[Sprite] = ()) -> ScenePicture:
    """Compose the scene of `seed` and shrink it; `members` as for `compose`."""
    scene = compose(seed, scenes, members)
    return ScenePicture(scene, shrink(scene.image))


def shrink(image: NDArray[np.uint8], side_px: int = SIDE_PX) -> NDArray[np.uint8]:
    """Shrink a square picture, by default to the size that judges see, [64, 64, 3]."""
    return np.asarray(cv2.resize(image, (side_px, side_px), interpolation=cv2.INTER_AREA), np.uint8)


def pixels(images: Sequence[NDArray[np.uint8]]) -> Tensor:
    """Convert RGB images [H, W, 3] to a tensor [B, 3, H, W] in [-1, 1]."""
    return torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2).float() / 127.5 - 1.0


def pool(kept: Pool) -> list[Sprite]:
    """Return the trained sprites or the held-out ones."""
    return [sprite for sprite in sprites() if sprite.held_out == (kept is Pool.HELD_OUT)]


def draw_alone(sprite: Sprite, rng: np.random.Generator) -> tuple[NDArray[np.uint8], NDArray[np.bool_]]:
    """Draw `sprite` in a random pose on a plain background of random colour; return RGB [128, 128, 3] and its mask."""
    image = np.full((_COMPOSED_PX, _COMPOSED_PX, 3), rng.uniform(0, 255, 3), np.float32)
    layer = render(sprite, pose(rng, CUTOUTS, 1), _COMPOSED_PX, _COMPOSED_PX)
    paint(image, layer)
    image *= rng.uniform(*CUTOUTS.scene_light)
    mask = np.zeros(image.shape[:2], np.bool_)
    mask[layer.window] = layer.mask
    return image.clip(0, 255).astype(np.uint8), mask


class Cutouts:
    """Makes pictures of cut-out subjects, in the same way as training and sampling of Subject-Diffusion."""

    def __init__(self, side_px: int = SIDE_PX) -> None:
        self._pictures = SubjectPictures(SubjectConfig(), side_px, (0.5, 0.5, 0.5), training=True)

    def __call__(self, sprite: Sprite, rng: np.random.Generator) -> NDArray[np.uint8]:
        """Draw `sprite` in a random pose and cut it out; RGB, [side, side, 3]."""
        cut: NDArray[np.uint8] = self._pictures(*draw_alone(sprite, rng), rng)
        return cut
