"""Training of the judge, which recognises place and class words, on real pictures degraded like generated ones.

Words for a whole picture train slowly, so each cell of the last features learns the class word of its content. An
auxiliary head also learns the sprite's name.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from infra.config import Config
from infra.ranges import Count, Seed
from miniature.networks.judge import CHANNELS, Judge, save_judge
from miniature.training.degrade import degrade
from miniature.training.pictures import PLACES, SCENES, SIDE_PX, pixels, pool, scene_picture
from miniature.training.train import Phase, Task
from miniature.world.scenes import Pool, Scene, ScenesConfig
from miniature.world.sprites import sprites

CELLS = SIDE_PX // 2 ** len(CHANNELS)
"""Number of cells along a side of the last features."""
IGNORED = -100
"""Label of cells that the loss ignores, as in torch."""
_OWNED, _EMPTY = 0.3, 0.05
"""Share of a cell above which it belongs to a subject, and share up to which it belongs to the background."""


class JudgeConfig(Config):
    """Settings of the judge's training."""

    seed: Seed
    """Seed of weights and data."""
    everything: Phase
    """The only phase."""
    validation_scenes: Count = 300
    """Number of scenes for validation, of trained and of held-out sprites each."""


class Settings(Config):
    """Tables of the recipe."""

    training: JudgeConfig
    """Settings of the training."""


def class_words() -> tuple[str, ...]:
    """Return all class words, sorted."""
    return tuple(sorted({sprite.class_word for sprite in sprites()}))


class JudgeBatch(NamedTuple):
    """Pictures of scenes with their labels."""

    images: Tensor
    """Pixels in [-1, 1], [B, 3, 64, 64]."""
    places: Tensor
    """Index of each picture's place, [B]."""
    words: Tensor
    """Whether each class word applies to a subject, [B, words]."""
    cell_words: Tensor
    """Index of each cell's class word, [B, 4, 4]; the number of words for background, or `IGNORED`."""
    cell_sprites: Tensor
    """Index of each cell's trained sprite, [B, 4, 4], or `IGNORED`."""


class JudgeData:
    """Training data of the judge: pictures of scenes."""

    def __init__(self, scenes: ScenesConfig) -> None:
        self.scenes, self.words = scenes, class_words()
        self.sprites = {sprite.name: i for i, sprite in enumerate(pool(Pool.TRAINED))}

    def __call__(self, seed: Sequence[int], size: int) -> JudgeBatch:
        """Return a batch."""
        pictures = [scene_picture((*seed, i), self.scenes) for i in range(size)]
        words = torch.zeros(size, len(self.words), dtype=torch.bool)
        for row, one in zip(words, pictures, strict=True):
            row[[self.words.index(subject.sprite.class_word) for subject in one.scene.subjects]] = True
        places = torch.tensor([PLACES.index(one.scene.background) for one in pictures])
        cells = torch.from_numpy(np.stack([self._cells(one.scene) for one in pictures]))
        return JudgeBatch(pixels([one.image for one in pictures]), places, words, cells[:, 0], cells[:, 1])

    def _cells(self, scene: Scene) -> NDArray[np.int64]:
        """Return the indices of word and sprite of each cell, [2, 4, 4]."""
        cells = np.full((2, CELLS, CELLS), IGNORED)
        masks = [subject.mask.astype(np.float32) for subject in scene.subjects]
        shares = np.stack([cv2.resize(mask, (CELLS, CELLS), interpolation=cv2.INTER_AREA) for mask in masks])
        most = shares.argmax(axis=0)
        for index, subject in enumerate(scene.subjects):
            own = (most == index) & (shares[index] > _OWNED)
            cells[0, own] = self.words.index(subject.sprite.class_word)
            cells[1, own] = self.sprites.get(subject.sprite.name, IGNORED)
        cells[0, shares.sum(axis=0) <= _EMPTY] = len(self.words)
        return cells


class JudgeTask:
    """The only phase."""

    name = "everything"

    def __init__(self, net: Judge, config: JudgeConfig) -> None:
        self.net, self.data = net, JudgeData(SCENES)
        self.heads: nn.Module = nn.Conv2d(CHANNELS[-1], len(self.data.sprites), 1)
        self._trained_sprites = self.data((config.seed, 999), config.validation_scenes)
        held_out = JudgeData(SCENES.model_copy(update={"pool": Pool.HELD_OUT}))
        self._held_out_sprites = held_out((config.seed, 999), config.validation_scenes)

    def loss(self, batch: JudgeBatch) -> dict[str, Tensor]:
        """Return the cross-entropies of places, class words and sprites."""
        features = self.net.trunk.features(degrade(batch.images))
        place, cells = self.net.read(features)
        return {
            "place": F.cross_entropy(place, batch.places),
            "words": F.cross_entropy(cells, batch.cell_words),
            "names": F.cross_entropy(self.heads(features), batch.cell_sprites),
        }

    def validate(self) -> dict[str, float]:
        """Return the shares of right places and class words, on new scenes of trained and of held-out sprites."""
        place, words = self._accuracies(self._trained_sprites)
        unseen_place, unseen_words = self._accuracies(self._held_out_sprites)
        return {"place": place, "words": words, "unseen_place": unseen_place, "unseen_words": unseen_words}

    def finish(self) -> None:
        """Do nothing: all trained weights are in the network."""

    def _accuracies(self, batch: JudgeBatch) -> tuple[float, float]:
        place, word = self.net(batch.images)
        rows = zip(word, batch.words, strict=True)
        hits = [word_hits(logits, [int(i) for i in row.nonzero()]) for logits, row in rows]
        return float((place.argmax(1) == batch.places).float().mean()), sum(map(sum, hits)) / sum(map(len, hits))


def word_hits(logits: Tensor, words: Sequence[int]) -> list[bool]:
    """Return whether each of n distinct class words is among the n most likely ones."""
    most_likely = set(logits.topk(len(words)).indices.tolist())
    return [word in most_likely for word in words]


class Training:
    """Recipe with one phase."""

    def __init__(self, config: JudgeConfig) -> None:
        self.config = config
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(config.seed)
            self.net = Judge(PLACES, class_words())

    def tasks(self) -> list[tuple[Phase, Task[JudgeBatch]]]:
        """Return the phase with its task."""
        return [(self.config.everything, JudgeTask(self.net, self.config))]

    def save(self, folder: Path) -> None:
        """Write the judge in half precision."""
        save_judge(self.net, folder)
