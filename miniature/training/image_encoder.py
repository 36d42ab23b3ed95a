"""The image encoder: which thing it is, from CLS; what each patch looks like, linearly, from its token.

A picture is one subject cut out, as the subjects of training and sampling are. CLS is held against the words that name
the sprite (as CLIP does), against all other sprites, and against a thumbnail.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from infra.config import Config
from infra.ranges import Count, Factor, Seed
from miniature.networks.image_encoder import PATCH_PX, SIDE_PX, WIDTH, build, save
from miniature.networks.vocabulary import words_of
from miniature.training.latent import psnr_db
from miniature.training.pictures import Cutouts, pixels, pool
from miniature.training.train import Phase, Task
from miniature.world.scenes import Pool
from miniature.world.sprites import Sprite

THUMBNAIL_PX = 8


class EncoderPhase(Phase):
    """The phase with the weights of its terms."""

    words: Factor = 0.3
    sprite: Factor = 0.3
    patches: Factor = 4.0
    thumbnail: Factor = 2.0
    swapped_colours: Factor = 0.3
    """Share of batches with their colour channels in another order, for colours that no sprite has."""


class EncoderConfig(Config):
    seed: Seed
    everything: EncoderPhase
    validation_poses: Count = 2


class Settings(Config):
    """The tables of a recipe."""

    training: EncoderConfig


class Subjects:
    """Cut-outs of trained sprites: pixels [B, 3, 64, 64] in [-1, 1] and each sprite's place in the pool, [B]."""

    def __init__(self) -> None:
        self.cutouts, self.pool = Cutouts(SIDE_PX), pool(Pool.TRAINED)

    def __call__(self, seed: Sequence[int], size: int) -> tuple[Tensor, Tensor]:
        rng = np.random.default_rng(seed)
        drawn = rng.permutation(len(self.pool))[:size]
        return pixels([self.cutouts(self.pool[i], rng) for i in drawn]), torch.from_numpy(drawn)


class Heads(nn.Module):
    """What the terms read the tower's tokens with."""

    def __init__(self, sprites: Sequence[Sprite]) -> None:
        super().__init__()
        texts = [f"{sprite.name} {sprite.class_word}" for sprite in sprites]
        ids = {word: index for index, word in enumerate(words_of(texts))}
        self._words = [torch.tensor([ids[word] for word in words_of([text])]) for text in texts]
        self.words, self.seen = nn.EmbeddingBag(len(ids), WIDTH), nn.Linear(WIDTH, WIDTH)
        self.sharpness = nn.Parameter(torch.tensor(2.3))
        self.sprite = nn.Linear(WIDTH, len(sprites))
        self.patches = nn.Linear(WIDTH, 3 * PATCH_PX**2)
        self.thumbnail = nn.Linear(WIDTH, 3 * THUMBNAIL_PX**2)

    def named(self, sprites: Tensor) -> Tensor:
        """The words of each sprite as one vector of length 1, [B, D]."""
        words = [self._words[i] for i in sprites.tolist()]
        starts = torch.tensor([0, *map(len, words[:-1])]).cumsum(0)
        return F.normalize(self.words(torch.cat(words), starts), dim=-1)


class EncoderTask:
    """The one phase."""

    name = "everything"

    def __init__(self, net: Any, config: EncoderConfig) -> None:
        self.net, self._phase = net, config.everything
        self.data = Subjects()
        self.heads: Any = Heads(self.data.pool)
        self._unseen = unseen_poses(config.seed, config.validation_poses)

    def loss(self, batch: tuple[Tensor, Tensor]) -> dict[str, Tensor]:
        (images, sprites), phase = batch, self._phase
        if torch.rand(()) < phase.swapped_colours:
            images = images[:, torch.randperm(3)]
        cls, tokens = self.net(images)
        near = F.normalize(self.heads.seen(cls), dim=-1) @ self.heads.named(sprites).T * self.heads.sharpness.exp()
        own = torch.arange(len(images))
        return {
            "words": phase.words * (F.cross_entropy(near, own) + F.cross_entropy(near.T, own)) / 2,
            "sprite": phase.sprite * F.cross_entropy(self.heads.sprite(cls), sprites),
            "patches": phase.patches * F.mse_loss(self.heads.patches(tokens), patches(images)),
            "thumbnail": phase.thumbnail * F.mse_loss(self.heads.thumbnail(cls), thumbnails(images)),
        }

    def validate(self) -> dict[str, float]:
        """On held-out sprites: PSNR of the patches in dB, R@1 of CLS between two poses, error of the thumbnail."""
        seen = [self.net(images) for images in self._unseen]
        images, tokens = self._unseen.flatten(0, 1), torch.cat([tokens for _, tokens in seen])
        cls = torch.stack([F.normalize(cls, dim=-1) for cls, _ in seen])
        return {
            "psnr_db": psnr_db(float(F.mse_loss(self.heads.patches(tokens), patches(images)))),
            "cls_r_at_1": recall_at_1(cls[0], cls[1]),
            "thumbnail": float(F.mse_loss(self.heads.thumbnail(torch.cat([c for c, _ in seen])), thumbnails(images))),
        }

    def finish(self) -> None:
        """Nothing is trained outside of the network."""


def unseen_poses(seed: int, poses: int) -> Tensor:
    """Cut-outs of every held-out sprite in so many poses, [poses, sprites, 3, 64, 64]."""
    cutouts, rng = Cutouts(SIDE_PX), np.random.default_rng([seed, 999])
    return torch.stack([pixels([cutouts(sprite, rng) for sprite in pool(Pool.HELD_OUT)]) for _ in range(poses)])


def patches(images: Tensor) -> Tensor:
    """Pixels of each patch, [B, patches, 48]."""
    return F.unfold(images, PATCH_PX, stride=PATCH_PX).transpose(1, 2)


def thumbnails(images: Tensor) -> Tensor:
    """The images at 8 px, flat."""
    return F.adaptive_avg_pool2d(images, THUMBNAIL_PX).flatten(1)


def recall_at_1(queries: Tensor, gallery: Tensor) -> float:
    """Share of the rows of `queries` whose nearest row of `gallery` is the one of the same number."""
    return float(((queries @ gallery.T).argmax(1) == torch.arange(len(queries))).float().mean())


class Training:
    """The recipe: one phase."""

    def __init__(self, config: EncoderConfig) -> None:
        self.config = config
        self.net = build(config.seed)

    def tasks(self) -> list[tuple[Phase, Task]]:
        return [(self.config.everything, EncoderTask(self.net, self.config))]

    def save(self, folder: Path) -> None:
        save(self.net.eval().half(), folder)
        self.net.float()
