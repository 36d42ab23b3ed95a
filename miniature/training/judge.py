"""The judge: the place and the class words of scenes, from real ones that are worn like generated ones."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from pydantic import PositiveInt
from torch import Tensor, nn
from torch.nn import functional as F

from infra.config import Config
from miniature.networks.judge import Judge, save_judge
from miniature.scenes import Pool, ScenesConfig
from miniature.sprites import sprites
from miniature.train import Phase, Task
from miniature.training.pictures import PLACES, SCENES, pixels, shown
from miniature.training.worn import worn


class JudgeConfig(Config):
    seed: int
    everything: Phase
    validation_scenes: PositiveInt = 300


class Settings(Config):
    """The tables of a recipe."""

    training: JudgeConfig


def class_words() -> tuple[str, ...]:
    """All there are, sorted."""
    return tuple(sorted({sprite.class_word for sprite in sprites()}))


class Judged:
    """Scenes: pixels [B, 3, 64, 64], the place [B], and the share of each class word in the subjects [B, words]."""

    def __init__(self, scenes: ScenesConfig) -> None:
        self.scenes, self.words = scenes, class_words()

    def __call__(self, seed: Sequence[int], size: int) -> tuple[Tensor, Tensor, Tensor]:
        seen = [shown((*seed, i), self.scenes) for i in range(size)]
        words = torch.zeros(size, len(self.words))
        for row, one in zip(words, seen, strict=True):
            for subject in one.scene.subjects:
                row[self.words.index(subject.sprite.class_word)] += 1 / len(one.scene.subjects)
        places = torch.tensor([PLACES.index(one.scene.background) for one in seen])
        return pixels([one.image for one in seen]), places, words


class JudgeTask:
    """The one phase."""

    name = "everything"

    def __init__(self, net: Judge, config: JudgeConfig) -> None:
        self.net, self.heads, self.data = net, nn.Module(), Judged(SCENES)
        self._fresh = self.data((config.seed, 999), config.validation_scenes)
        unseen = Judged(SCENES.model_copy(update={"pool": Pool.HELD_OUT}))
        self._unseen = unseen((config.seed, 999), config.validation_scenes)

    def loss(self, batch: Any) -> dict[str, Tensor]:
        images, places, words = batch
        place, word = self.net(worn(images))
        return {"place": F.cross_entropy(place, places), "words": F.cross_entropy(word, words, label_smoothing=0.05)}

    def validate(self) -> dict[str, float]:
        """Places and class words right on fresh scenes of trained sprites, and of held-out ones."""
        place, words = self._right(self._fresh)
        unseen_place, unseen_words = self._right(self._unseen)
        return {"place": place, "words": words, "unseen_place": unseen_place, "unseen_words": unseen_words}

    def finish(self) -> None:
        """Nothing is trained outside of the network."""

    def _right(self, batch: tuple[Tensor, Tensor, Tensor]) -> tuple[float, float]:
        images, places, words = batch
        place, word = self.net(images)
        hits = [found_words(logits, [int(i) for i in row.nonzero()]) for logits, row in zip(word, words, strict=True)]
        return float((place.argmax(1) == places).float().mean()), sum(map(sum, hits)) / sum(map(len, hits))


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
