"""Training of the embedder: crops of one sprite in different poses and places get similar vectors, others do not."""

from collections.abc import Iterable, Sequence
from pathlib import Path

import cv2
import numpy as np
import torch
from jaxtyping import Float, Int64
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from infra.config import Config
from infra.ranges import Count, Rate, Seed, Share
from labeling.sdd.schema import Box
from miniature.networks.judge import CROP_PX, EMBEDDED, Embedder, save_embedder
from miniature.training.degrade import degrade
from miniature.training.image_encoder import recall_at_1
from miniature.training.pictures import SCENES, Cutouts, ScenePicture, pixels, pool, scene_picture
from miniature.training.train import Phase, Task
from miniature.world.scenes import Pool
from miniature.world.sprites import Sprite

_AROUND = 1.15
"""Side of a crop, as a multiple of its box's longer side."""


class EmbedderPhase(Phase):
    """Settings of the embedder's phase."""

    temperature: Rate = 0.08
    """Temperature of the contrastive losses."""
    cutout_share: Share = 0.25
    """Share of pictures that are cut-outs on white, like references, 0 to 1."""


class EmbedderConfig(Config):
    """Settings of the embedder's training."""

    seed: Seed
    """Seed of weights and data."""
    everything: EmbedderPhase
    """The only phase."""
    validation_rounds: Count = 3
    """Number of validation batches, each with all held-out sprites."""


class Settings(Config):
    """Tables of the recipe."""

    training: EmbedderConfig
    """Settings of the training."""


def crop(image: NDArray[np.uint8], box: Box) -> NDArray[np.uint8]:
    """Return the square around a box, [48, 48, 3]; outside the image, its edge is repeated."""
    side = _AROUND * max(box.x1 - box.x0, box.y1 - box.y0)
    x0, y0 = (box.x0 + box.x1 - side) / 2, (box.y0 + box.y1 - side) / 2
    scale = CROP_PX / side
    shift = np.array([[scale, 0, 0.5 * scale - 0.5 - scale * x0], [0, scale, 0.5 * scale - 0.5 - scale * y0]])
    size = (CROP_PX, CROP_PX)
    cut = cv2.warpAffine(image, shift, size, flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
    return np.asarray(cut, np.uint8)


def lone_scene(seed: Sequence[int], sprite: Sprite) -> ScenePicture:
    """Compose the scene of `seed` with `sprite` as its only subject."""
    one = SCENES.model_copy(update={"subjects": (1, 1)})
    return scene_picture([int(part) for part in seed], one, (sprite,))


class Pairs:
    """Two pictures of each of `size` sprites: crops [2, B, 3, 48, 48], and the sprites' indices in the pool."""

    def __init__(self, sprites: Sequence[Sprite], cutout_share: float) -> None:
        self.pool, self.cutouts, self.share = sprites, Cutouts(CROP_PX), cutout_share

    def __call__(self, seed: Sequence[int], size: int) -> tuple[Tensor, Tensor]:
        """Return a batch."""
        rng = np.random.default_rng([*seed, 1])
        indices = rng.permutation(len(self.pool))[:size]
        views = [[self._view((*seed, i, side), self.pool[i], rng) for i in indices] for side in range(2)]
        return torch.stack([pixels(view) for view in views]), torch.from_numpy(indices)

    def _view(self, seed: Sequence[int], sprite: Sprite, rng: np.random.Generator) -> NDArray[np.uint8]:
        if rng.random() < self.share:
            return self.cutouts(sprite, rng)
        one = lone_scene(seed, sprite)
        return crop(one.image, one.box(0))


class EmbedderTask:
    """The only phase."""

    name = "everything"

    def __init__(self, net: Embedder, config: EmbedderConfig) -> None:
        self.net, self._phase = net, config.everything
        self.data = Pairs(pool(Pool.TRAINED), config.everything.cutout_share)
        self.heads = nn.Linear(EMBEDDED, len(self.data.pool), bias=False)
        held_out = Pairs(pool(Pool.HELD_OUT), 0.0)
        rounds = range(config.validation_rounds)
        self._validation = [held_out((config.seed, 999, i), len(held_out.pool))[0] for i in rounds]

    def loss(self, batch: tuple[Tensor, Tensor]) -> dict[str, Tensor]:
        """Return the contrastive loss between views and the classification loss of sprites."""
        views, sprites = to_device(batch, self.net)
        vectors, temperature = self.net(degrade(views.flatten(0, 1))), self._phase.temperature
        return {
            "pairs": pair_loss(vectors, temperature),
            "sprite": sprite_loss(vectors, self.heads, sprites.repeat(2), temperature),
        }

    def validate(self) -> dict[str, float]:
        """Return R@1 among all held-out sprites, between two poses in two places."""
        recalls = [recall_at_1(*map(self.net, to_device(pair, self.net))) for pair in self._validation]
        return {"unseen_r_at_1": sum(recalls) / len(recalls)}

    def finish(self) -> None:
        """Do nothing: all trained weights are in the network."""


def to_device(tensors: Iterable[Tensor], net: nn.Module) -> list[Tensor]:
    """Move tensors to the device of a network."""
    device = next(net.parameters()).device
    return [tensor.to(device) for tensor in tensors]


def pair_loss(vectors: Float[Tensor, "2B D"], temperature: float) -> Float[Tensor, ""]:
    """Return the contrastive loss of two views of each sprite, the second views after the first ones."""
    one, other = vectors.chunk(2)
    near, own = one @ other.T / temperature, torch.arange(len(one), device=one.device)
    return (F.cross_entropy(near, own) + F.cross_entropy(near.T, own)) / 2


def sprite_loss(
    vectors: Float[Tensor, "N D"], heads: nn.Linear, sprites: Int64[Tensor, " N"], temperature: float
) -> Float[Tensor, ""]:
    """Return the classification loss of vectors by their cosine with a vector of each class."""
    named = vectors @ F.normalize(heads.weight, dim=-1).T / temperature
    return F.cross_entropy(named, sprites, label_smoothing=0.1)


class Training:
    """Recipe with one phase."""

    def __init__(self, config: EmbedderConfig) -> None:
        self.config = config
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(config.seed)
            self.net = Embedder()

    def tasks(self) -> list[tuple[Phase, Task[tuple[Tensor, Tensor]]]]:
        """Return the phase with its task."""
        return [(self.config.everything, EmbedderTask(self.net, self.config))]

    def save(self, folder: Path) -> None:
        """Write the embedder in half precision."""
        save_embedder(self.net, folder)
