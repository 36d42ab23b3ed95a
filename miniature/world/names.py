"""Names the sprites that the labelling networks learn, that datasets show, and that settings are chosen on."""

from collections import Counter
from functools import cache

from miniature.world.scenes import ScenesConfig
from miniature.world.sprites import sprites

PER_CLASS = 7
TUNING = 60
"""Number of sprites on which settings of the generator are chosen."""


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


@cache
def tuning_names() -> tuple[str, ...]:
    """Return the trained sprites that no dataset contains, so that settings can be chosen on them."""
    taught = set(labelled_names())
    return tuple(s.name for s in sprites() if not s.held_out and s.name not in taught)[:TUNING]


@cache
def subject_names() -> tuple[str, ...]:
    """Return the sprites that datasets with true labels contain: all trained ones but those of `tuning_names`."""
    kept = set(tuning_names())
    return tuple(s.name for s in sprites() if not s.held_out and s.name not in kept)
