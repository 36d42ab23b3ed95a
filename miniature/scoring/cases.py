"""Test cases of a trained model: subjects given in one pose and requested in another, on a named background."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Bool, UInt8

from miniature.scoring.score_options import SubjectSet
from miniature.training.pictures import SCENES, ScenePicture, draw_alone, pool, scene_picture
from miniature.world.names import tuning_names
from miniature.world.scenes import Pool
from miniature.world.sprites import Sprite, sprites
from model.inputs.layout import RelativeBox

COUNT = 60
"""Number of subjects that are ranked against each other."""
SEED = 4242
_TRIES = 20


@dataclass(frozen=True)
class TargetSubject:
    """One subject of a requested picture."""

    sprite: Sprite
    label: str
    """Word for it in the prompt: its class word, since no network knows its name."""
    image: UInt8[np.ndarray, "h w 3"]
    """Reference image."""
    mask: Bool[np.ndarray, "h w"]
    """Region of the subject in the reference image."""
    box: RelativeBox
    """Bounds of the subject in the requested scene, as shares of its sides."""
    place: Bool[np.ndarray, "_h _w"]
    """Region of the subject in the requested scene."""


@dataclass(frozen=True)
class Case:
    """A requested picture, described by a scene that no network was trained on."""

    picture: ScenePicture
    """The scene itself, an example of a perfect result."""
    subjects: tuple[TargetSubject, ...]
    """Subjects from left to right, as the prompt names them."""

    @property
    def prompt(self) -> str:
        """Caption of the scene."""
        return self.picture.scene.caption


def sprites_of(asked: SubjectSet) -> list[Sprite]:
    """Return the sprites of a set, in the order of the list; at least `COUNT`."""
    if asked is SubjectSet.HELD_OUT:
        return pool(Pool.HELD_OUT)
    tuning = set(tuning_names())
    return [sprite for sprite in pool(Pool.TRAINED) if sprite.name in tuning]


def cases(subjects: int, asked: SubjectSet = SubjectSet.HELD_OUT) -> Iterator[Case]:
    """Yield cases of one to three subjects; each of the first `COUNT` sprites is the first subject of one case."""
    ours = sprites_of(asked)[:COUNT]
    for index, first in enumerate(ours):
        wanted = {sprite.name for sprite in (first, *_others(ours, index, subjects - 1))}
        # The draws depend on the order of the members, which is that of the list.
        yield make_case((SEED, subjects, index), [sprite for sprite in sprites() if sprite.name in wanted])


def exchange_references(case: Case) -> Case:
    """Return the case of two subjects with the reference of each in place of the other's; words and places stay."""
    one, other = case.subjects
    pairs = ((one, other), (other, one))
    subjects = tuple(replace(at, sprite=shown.sprite, image=shown.image, mask=shown.mask) for at, shown in pairs)
    return replace(case, subjects=subjects)


def _others(ours: Sequence[Sprite], index: int, count: int) -> list[Sprite]:
    """Return the next sprites with different class words, so that the prompt can call each by its class word."""
    chosen = [ours[index]]
    step = 7
    while len(chosen) <= count:
        other = ours[(index + step) % len(ours)]
        if other.class_word not in {sprite.class_word for sprite in chosen}:
            chosen.append(other)
        step += 1
    return chosen[1:]


def make_case(seed: tuple[int, ...], members: Sequence[Sprite]) -> Case:
    """Return the case that requests all `members`, in a scene of its own."""
    count = len(members)
    scenes = SCENES.model_copy(update={"subjects": (count, count), "class_word_share": 1.0})
    drawn = (scene_picture((*seed, attempt), scenes, members) for attempt in range(_TRIES))  # may lack room for all
    one = next(s for s in drawn if len(s.scene.subjects) == count)
    rng = np.random.default_rng(seed)
    return Case(one, tuple(_target_subject(one, index, rng) for index in range(count)))


def _target_subject(one: ScenePicture, index: int, rng: np.random.Generator) -> TargetSubject:
    subject = one.scene.subjects[index]
    image, mask = draw_alone(subject.sprite, rng)
    height, width = one.scene.image.shape[:2]
    box = subject.box
    share = (box.x0 / width, box.y0 / height, box.x1 / width, box.y1 / height)
    return TargetSubject(subject.sprite, subject.label, image, mask, share, subject.mask)
