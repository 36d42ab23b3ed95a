"""Subjects that a trained model is asked for: each given in one pose, wanted in another, on a named ground."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, UInt8

from miniature.scoring.exam import Asked
from miniature.training.pictures import SCENES, Shown, alone, pool, shown
from miniature.world.names import labelled_names
from miniature.world.scenes import Pool
from miniature.world.sprites import Sprite
from model.inputs.layout import RelativeBox

COUNT = 60
"""Subjects that are ranked against each other."""
SEED = 4242
_TRIES = 20


@dataclass(frozen=True)
class Wanted:
    """One subject of a picture that is asked for."""

    sprite: Sprite
    label: str
    """The word for it in the prompt: its class word, since no network knows its name."""
    image: UInt8[np.ndarray, "h w 3"]
    """The reference."""
    mask: Bool[np.ndarray, "h w"]
    """Where in it."""
    box: RelativeBox
    place: Bool[np.ndarray, "_h _w"]
    """Where it is in the scene that is asked for."""


@dataclass(frozen=True)
class Case:
    """A picture that is asked for, by a scene that nobody trained on."""

    shown: Shown
    """The scene itself: what a perfect answer may look like."""
    subjects: tuple[Wanted, ...]
    """From left to right, as the prompt names them."""

    @property
    def prompt(self) -> str:
        return self.shown.scene.caption


def known(asked: Asked) -> list[Sprite]:
    """Such sprites, in the order of the list; at least `COUNT`."""
    if asked is Asked.HELD_OUT:
        return pool(Pool.HELD_OUT)
    taught = set(labelled_names())
    return [sprite for sprite in pool(Pool.TRAINED) if sprite.name not in taught][:COUNT]


def cases(subjects: int, asked: Asked = Asked.HELD_OUT) -> Iterator[Case]:
    """Pictures of one or two subjects; each of the first `COUNT` is the first of one of them."""
    ours = known(asked)[:COUNT]
    for index, first in enumerate(ours):
        yield _case((SEED, subjects, index), (first, *_others(ours, index, subjects - 1)))


def _others(ours: Sequence[Sprite], index: int, count: int) -> list[Sprite]:
    """The next ones with class words of their own, so that the prompt may call each by it."""
    chosen = [ours[index]]
    step = 7
    while len(chosen) <= count:
        other = ours[(index + step) % len(ours)]
        if other.class_word not in {sprite.class_word for sprite in chosen}:
            chosen.append(other)
        step += 1
    return chosen[1:]


def _case(seed: tuple[int, ...], wanted: Sequence[Sprite]) -> Case:
    names, count = tuple(sprite.name for sprite in wanted), len(wanted)
    of_these = {"pool": Pool.ALL, "names": names, "subjects": (count, count), "class_word_share": 1.0}
    scenes = SCENES.model_copy(update=of_these)
    drawn = (shown((*seed, attempt), scenes) for attempt in range(_TRIES))  # not every draw has room for all
    one = next(s for s in drawn if len(s.scene.subjects) == count)
    rng = np.random.default_rng(seed)
    return Case(one, tuple(_wanted(one, index, rng) for index in range(count)))


def _wanted(one: Shown, index: int, rng: np.random.Generator) -> Wanted:
    subject = one.scene.subjects[index]
    image, mask = alone(subject.sprite, rng)
    height, width = one.scene.image.shape[:2]
    box = subject.box
    share = (box.x0 / width, box.y0 / height, box.x1 / width, box.y1 / height)
    return Wanted(subject.sprite, subject.label, image, mask, share, subject.mask)
