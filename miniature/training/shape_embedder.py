"""Training of the shape embedder, which identifies subjects by shape: the embedder's training with redrawn colours.

The colours of two views of a sprite are drawn independently, so that colour does not identify it. Tiles, boxes in a
subject's colours, have a class of their own; otherwise the aspect ratio of a box would identify some subjects.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn

from infra.config import Config
from infra.ranges import Count, Seed
from miniature.networks.judge import EMBEDDED, Embedder, save_embedder
from miniature.training.degrade import degrade
from miniature.training.embedder import EmbedderPhase, Pairs, crop, lone_scene, pair_loss, sprite_loss, to_device
from miniature.training.image_encoder import recall_at_1
from miniature.training.pictures import pixels, pool
from miniature.training.recolor import RecolorConfig, recolor
from miniature.training.tiles import MAX_CELLS, draw_tile
from miniature.training.train import Phase, Task
from miniature.world.scenes import Pool
from miniature.world.sprites import Sprite

Batch = tuple[Tensor, Tensor, Tensor]
"""Crops of two views of each sprite [2, B, 3, 48, 48], the sprites' indices [B], and crops of tiles [T, 3, 48, 48]."""


class ShapePhase(EmbedderPhase):
    """Settings of the shape embedder's phase."""

    recolor: RecolorConfig = RecolorConfig()
    """Ranges of the drawn colours."""
    tiles: Count = 16
    """Number of tiles in a batch."""


class ShapeConfig(Config):
    """Settings of the shape embedder's training."""

    seed: Seed
    """Seed of weights and data."""
    everything: ShapePhase
    """The only phase."""
    validation_rounds: Count = 3
    """Number of validation batches, each with all held-out sprites."""


class Settings(Config):
    """Tables of the recipe."""

    training: ShapeConfig
    """Settings of the training."""


class ShapeData:
    """Two pictures of each sprite, and tiles in the colours of the first of them."""

    def __init__(self, sprites: Sequence[Sprite], phase: ShapePhase) -> None:
        self.pool, self.tiles = sprites, phase.tiles
        self._pairs = Pairs(sprites, phase.cutout_share)

    def __call__(self, seed: Sequence[int], size: int) -> Batch:
        """Return a batch."""
        views, indices = self._pairs(seed, size)
        rng = np.random.default_rng([*seed, 2])
        cells = rng.integers(1, MAX_CELLS, size=min(self.tiles, size), endpoint=True)
        tiled = [self.pool[i] for i in indices[: len(cells)]]
        return views, indices, tiles(seed, tiled, cells.tolist())


def tiles(seed: Sequence[int], sprites: Sequence[Sprite], cells: Sequence[int]) -> Float[Tensor, "T 3 48 48"]:
    """Return crops of a tile for each sprite, in scenes of their own."""
    crops = []
    for index, (sprite, count) in enumerate(zip(sprites, cells, strict=True)):
        one = lone_scene((*seed, index, 2), sprite)
        crops.append(crop(draw_tile(one, count), one.box(0)))
    return pixels(crops)


class ShapeTask:
    """The only phase."""

    name = "everything"

    def __init__(self, net: Embedder, config: ShapeConfig) -> None:
        self.net, self._phase = net, config.everything
        self.data = ShapeData(pool(Pool.TRAINED), config.everything)
        self._tile_class = len(self.data.pool)
        self.heads = nn.Linear(EMBEDDED, self._tile_class + 1, bias=False)
        self._validation = _validation(config)

    def loss(self, batch: Batch) -> dict[str, Tensor]:
        """Return the contrastive loss between views and the classification loss of sprites and tiles."""
        views, sprites, flat = to_device(batch, self.net)
        pictures = torch.cat([views.flatten(0, 1), flat])
        vectors, temperature = self.net(degrade(recolor(pictures, self._phase.recolor))), self._phase.temperature
        classes = torch.cat([sprites.repeat(2), sprites.new_full((len(flat),), self._tile_class)])
        return {
            "pairs": pair_loss(vectors[: 2 * len(sprites)], temperature),
            "sprite": sprite_loss(vectors, self.heads, classes, temperature),
        }

    def validate(self) -> dict[str, float]:
        """Return R@1 among all held-out sprites, by another pose and place and by a tile in the mean colour."""
        embedded = [[self.net(crops) for crops in to_device(batch, self.net)] for batch in self._validation]
        recalls = [(recall_at_1(one, other), recall_at_1(flat, other)) for one, other, flat in embedded]
        unseen, tile = (sum(values) / len(values) for values in zip(*recalls, strict=True))
        return {"unseen_r_at_1": unseen, "tile_r_at_1": tile}

    def finish(self) -> None:
        """Do nothing: all trained weights are in the network."""


def _validation(config: ShapeConfig) -> list[tuple[Tensor, Tensor, Tensor]]:
    """Return batches of two views and a tile of each held-out sprite, in one order."""
    sprites = pool(Pool.HELD_OUT)
    pairs, batches = Pairs(sprites, 0.0), []
    for index in range(config.validation_rounds):
        seed = (config.seed, 999, index)
        (one, other), order = pairs(seed, len(sprites))
        batches.append((one, other, tiles(seed, [sprites[i] for i in order], [1] * len(sprites))))
    return batches


class Training:
    """Recipe with one phase."""

    def __init__(self, config: ShapeConfig) -> None:
        self.config = config
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(config.seed)
            self.net = Embedder()

    def tasks(self) -> list[tuple[Phase, Task[Batch]]]:
        """Return the phase with its task."""
        return [(self.config.everything, ShapeTask(self.net, self.config))]

    def save(self, folder: Path) -> None:
        """Write the embedder in half precision."""
        save_embedder(self.net, folder)
