"""Scenes as the scorer's matching wants them."""

from collections.abc import Sequence
from dataclasses import dataclass

from labeling.sdd.schema import Box
from miniature.world.scenes import Scene


@dataclass(frozen=True, slots=True)
class Known:
    """A subject, by both of its words."""

    name: str
    class_word: str
    box: Box


@dataclass(frozen=True, slots=True)
class Answer:
    """A box that a network gave a word to."""

    label: str
    box: Box


def known_of(scene: Scene) -> Sequence[Known]:
    """The subjects of a scene."""
    return [Known(s.sprite.name, s.sprite.class_word, s.box) for s in scene.subjects]
