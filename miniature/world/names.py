"""The sprites that the captioner and the detector learn: some of every class word, none that is held out."""

from collections import Counter
from functools import cache

from miniature.world.scenes import ScenesConfig
from miniature.world.sprites import sprites

PER_CLASS = 7


@cache
def labelled_names() -> tuple[str, ...]:
    """The first `PER_CLASS` trained sprites of each class word, in the order of the list."""
    taken: Counter[str] = Counter()
    names = []
    for sprite in sprites():
        if not sprite.held_out and taken[sprite.class_word] < PER_CLASS:
            taken[sprite.class_word] += 1
            names.append(sprite.name)
    return tuple(names)


def taught_scenes() -> ScenesConfig:
    """Scenes whose every subject the captioner and the detector have learned."""
    return ScenesConfig(names=labelled_names())
