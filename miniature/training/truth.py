"""Converts scenes and predictions to the types that `matching` compares."""

from collections.abc import Sequence
from dataclasses import dataclass

from labeling.sdd.schema import Box
from miniature.world.scenes import Scene


@dataclass(frozen=True, slots=True)
class KnownSubject:
    """A subject with its name, its class word and its box."""

    name: str
    class_word: str
    box: Box


@dataclass(frozen=True, slots=True)
class Answer:
    """A predicted box with its word."""

    label: str
    box: Box


def scene_subjects(scene: Scene) -> Sequence[KnownSubject]:
    """Return the subjects of a scene."""
    return [KnownSubject(s.sprite.name, s.sprite.class_word, s.box) for s in scene.subjects]
