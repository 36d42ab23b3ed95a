"""Training of the image encoder: CLS identifies the sprite, and each patch token predicts its pixels linearly.

A picture is one cut-out subject, as in training and sampling of Subject-Diffusion. CLS is trained to match the words
for the sprite (as in CLIP), to classify the sprite, and to predict a thumbnail.
"""

from collections.abc import Sequence
from pathlib import Path

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
from model.openclip import VisionTransformer

THUMBNAIL_PX = 8


class EncoderPhase(Phase):
    """Settings of the image encoder's phase, with the weights of its losses."""

    words: Factor = 0.3
    """Weight of the contrastive loss with the sprites' words."""
    sprite: Factor = 0.3
    """Weight of the classification of the sprite."""
    patches: Factor = 4.0
    """Weight of the error of the patches' pixels."""
    thumbnail: Factor = 2.0
    """Weight of the error of the thumbnail."""
    swapped_colours: Factor = 0.3
    """Share of batches with permuted colour channels, which show colours that no sprite has."""


class EncoderConfig(Config):
    """Settings of the image encoder's training."""

    seed: Seed
    """Seed of weights and data."""
    everything: EncoderPhase
    """The only phase."""
    validation_poses: Count = 2
    """Number of poses of each held-out sprite for validation."""


class Settings(Config):
    """Tables of the recipe."""

    training: EncoderConfig
    """Settings of the training."""


class Subjects:
    """Cut-outs of trained sprites: pixels [B, 3, 64, 64] in [-1, 1] and each sprite's index in the pool, [B]."""

    def __init__(self) -> None:
        self.cutouts, self.pool = Cutouts(SIDE_PX), pool(Pool.TRAINED)

    def __call__(self, seed: Sequence[int], size: int) -> tuple[Tensor, Tensor]:
        """Return a batch."""
        rng = np.random.default_rng(seed)
        indices = rng.permutation(len(self.pool))[:size]
        return pixels([self.cutouts(self.pool[i], rng) for i in indices]), torch.from_numpy(indices)


class Heads(nn.Module):
    """Heads on the tower's tokens, one for each loss."""

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
        """Embed the words of each sprite as one vector of length 1, [B, D]."""
        words = [self._words[i] for i in sprites.tolist()]
        starts = torch.tensor([0, *map(len, words[:-1])]).cumsum(0)
        return F.normalize(self.words(torch.cat(words), starts), dim=-1)


class EncoderTask:
    """The only phase."""

    name = "everything"

    def __init__(self, net: VisionTransformer, config: EncoderConfig) -> None:
        self.net, self._phase = net, config.everything
        self.data = Subjects()
        self.heads = Heads(self.data.pool)
        self._validation = held_out_poses(config.seed, config.validation_poses)

    def loss(self, batch: tuple[Tensor, Tensor]) -> dict[str, Tensor]:
        """Return the weighted losses of words, sprite, patches and thumbnail."""
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
        """Return, for held-out sprites, PSNR of patches in dB, R@1 of CLS between two poses, error of the thumbnail."""
        outputs = [self.net(images) for images in self._validation]
        images, tokens = self._validation.flatten(0, 1), torch.cat([tokens for _, tokens in outputs])
        cls = torch.stack([F.normalize(cls, dim=-1) for cls, _ in outputs])
        return {
            "psnr_db": psnr_db(float(F.mse_loss(self.heads.patches(tokens), patches(images)))),
            "cls_r_at_1": recall_at_1(cls[0], cls[1]),
            "thumbnail": float(
                F.mse_loss(self.heads.thumbnail(torch.cat([c for c, _ in outputs])), thumbnails(images))
            ),
        }

    def finish(self) -> None:
        """Do nothing: all trained weights are in the network."""


def held_out_poses(seed: int, poses: int) -> Tensor:
    """Return cut-outs of every held-out sprite in `poses` poses, [poses, sprites, 3, 64, 64]."""
    cutouts, rng = Cutouts(SIDE_PX), np.random.default_rng([seed, 999])
    return torch.stack([pixels([cutouts(sprite, rng) for sprite in pool(Pool.HELD_OUT)]) for _ in range(poses)])


def patches(images: Tensor) -> Tensor:
    """Return the pixels of each patch, [B, patches, 48]."""
    return F.unfold(images, PATCH_PX, stride=PATCH_PX).transpose(1, 2)


def thumbnails(images: Tensor) -> Tensor:
    """Return the images at 8 px, flattened."""
    return F.adaptive_avg_pool2d(images, THUMBNAIL_PX).flatten(1)


def recall_at_1(queries: Tensor, gallery: Tensor) -> float:
    """Return the share of rows of `queries` whose nearest row of `gallery` has the same index."""
    nearest = (queries @ gallery.T).argmax(1)
    return float((nearest == torch.arange(len(queries), device=nearest.device)).float().mean())


class Training:
    """Recipe with one phase."""

    def __init__(self, config: EncoderConfig) -> None:
        self.config = config
        self.net = build(config.seed)

    def tasks(self) -> list[tuple[Phase, Task[tuple[Tensor, Tensor]]]]:
        """Return the phase with its task."""
        return [(self.config.everything, EncoderTask(self.net, self.config))]

    def save(self, folder: Path) -> None:
        """Write the tower in half precision."""
        save(self.net.eval().half(), folder)
        self.net.float()
