"""The judge: the place and the class words of scenes, from real ones that are worn like generated ones.

A word for a whole picture teaches slowly, so each cell of the last features learns the class word of what it shows.
A helping head also lets it name the sprite.
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
from miniature.training.pictures import PLACES, SCENES, SIDE_PX, pixels, pool, shown
from miniature.training.train import Phase, Task
from miniature.training.worn import worn
from miniature.world.scenes import Pool, Scene, ScenesConfig
from miniature.world.sprites import sprites

CELLS = SIDE_PX // 2 ** len(CHANNELS)
"""Of a side of the last features."""
IGNORED = -100
"""A cell that is not counted; torch's mark."""
_OWNED, _EMPTY = 0.3, 0.05
"""Share of a cell that makes it a subject's, and up to which it shows nothing but place."""


class JudgeConfig(Config):
    seed: Seed
    everything: Phase
    validation_scenes: Count = 300


class Settings(Config):
    """The tables of a recipe."""

    training: JudgeConfig


def class_words() -> tuple[str, ...]:
    """All there are, sorted."""
    return tuple(sorted({sprite.class_word for sprite in sprites()}))


class JudgeBatch(NamedTuple):
    """Scenes and what is to be said of them."""

    images: Tensor
    """Pixels in [-1, 1], [B, 3, 64, 64]."""
    places: Tensor
    """[B]."""
    words: Tensor
    """Whether each class word is a subject's, [B, words]."""
    cell_words: Tensor
    """The class word of each cell, [B, 4, 4]: their number where it shows nothing but place, or `IGNORED`."""
    cell_sprites: Tensor
    """The trained sprite of each cell, [B, 4, 4], or `IGNORED`."""


class Judged:
    """Scenes for the judge."""

    def __init__(self, scenes: ScenesConfig) -> None:
        self.scenes, self.words = scenes, class_words()
        self.sprites = {sprite.name: i for i, sprite in enumerate(pool(Pool.TRAINED))}

    def __call__(self, seed: Sequence[int], size: int) -> JudgeBatch:
        seen = [shown((*seed, i), self.scenes) for i in range(size)]
        words = torch.zeros(size, len(self.words), dtype=torch.bool)
        for row, one in zip(words, seen, strict=True):
            row[[self.words.index(subject.sprite.class_word) for subject in one.scene.subjects]] = True
        places = torch.tensor([PLACES.index(one.scene.background) for one in seen])
        cells = torch.from_numpy(np.stack([self._cells(one.scene) for one in seen]))
        return JudgeBatch(pixels([one.image for one in seen]), places, words, cells[:, 0], cells[:, 1])

    def _cells(self, scene: Scene) -> NDArray[np.int64]:
        """The word and the sprite of each cell, [2, 4, 4]."""
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
    """The one phase."""

    name = "everything"

    def __init__(self, net: Judge, config: JudgeConfig) -> None:
        self.net, self.data = net, Judged(SCENES)
        self.heads: nn.Module = nn.Conv2d(CHANNELS[-1], len(self.data.sprites), 1)
        self._fresh = self.data((config.seed, 999), config.validation_scenes)
        unseen = Judged(SCENES.model_copy(update={"pool": Pool.HELD_OUT}))
        self._unseen = unseen((config.seed, 999), config.validation_scenes)

    def loss(self, batch: JudgeBatch) -> dict[str, Tensor]:
        features = self.net.trunk.features(worn(batch.images))
        place, cells = self.net.read(features)
        return {
            "place": F.cross_entropy(place, batch.places),
            "words": F.cross_entropy(cells, batch.cell_words),
            "names": F.cross_entropy(self.heads(features), batch.cell_sprites),
        }

    def validate(self) -> dict[str, float]:
        """Places and class words right on fresh scenes of trained sprites, and of held-out ones."""
        place, words = self._right(self._fresh)
        unseen_place, unseen_words = self._right(self._unseen)
        return {"place": place, "words": words, "unseen_place": unseen_place, "unseen_words": unseen_words}

    def finish(self) -> None:
        """Nothing is trained outside of the network."""

    def _right(self, batch: JudgeBatch) -> tuple[float, float]:
        place, word = self.net(batch.images)
        rows = zip(word, batch.words, strict=True)
        hits = [found_words(logits, [int(i) for i in row.nonzero()]) for logits, row in rows]
        return float((place.argmax(1) == batch.places).float().mean()), sum(map(sum, hits)) / sum(map(len, hits))


def found_words(logits: Tensor, wanted: Sequence[int]) -> list[bool]:
    """Whether each of the wanted, different class words is among the so many most likely."""
    likeliest = set(logits.topk(len(wanted)).indices.tolist())
    return [word in likeliest for word in wanted]


class Training:
    """The recipe: one phase."""

    def __init__(self, config: JudgeConfig) -> None:
        self.config = config
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(config.seed)
            self.net = Judge(PLACES, class_words())

    def tasks(self) -> list[tuple[Phase, Task]]:
        return [(self.config.everything, JudgeTask(self.net, self.config))]

    def save(self, folder: Path) -> None:
        save_judge(self.net, folder)
