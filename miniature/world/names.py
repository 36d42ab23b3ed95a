"""Selects the sprites that the captioner and the detector learn: some of every class word, none that is held out."""

from collections import Counter
from functools import cache

from miniature.world.scenes import ScenesConfig
from miniature.world.sprites import sprites

PER_CLASS = 7


@cache
def labelled_names() -> tuple[str, ...]:
    """Return the first `PER_CLASS` trained sprites of each class word, in the order of the list."""
    counts: Counter[str] = Counter()
    names = []
    for sprite in sprites():
        if not sprite.held_out and counts[sprite.class_word] < PER_CLASS:
            counts[sprite.class_word] += 1
            names.append(sprite.name)
    return tuple(names)


def taught_scenes() -> ScenesConfig:
    """Return settings of scenes that contain only subjects that the captioner and the detector have learned."""
    return ScenesConfig(names=labelled_names())
