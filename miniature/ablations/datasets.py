"""The two datasets of the ablations: scenes of all things that the labelling networks know, and of few classes."""

import logging
from pathlib import Path

from labeling.build import LocalTaskRunner, build
from labeling.config import LabelingConfig
from labeling.sdd.schema import Layer
from labeling.sdd.shards import ShardStore
from miniature.world.names import labelled_names
from miniature.world.serve import METADATA, WorldConfig, world_server, write_world
from miniature.world.sprites import sprites

log = logging.getLogger(__name__)
SEED = 7
"""Seed of the scenes."""
CLASS_WORD_STEP = 10
"""The dataset of few classes has every tenth class word: 4 of 40, as OpenImages has few of the paper's classes."""


def build_dataset(folder: Path, labeling: LabelingConfig, world: WorldConfig, scenes: int, few_classes: bool) -> str:
    """Write a world of `scenes` scenes if `folder` has none, build or resume its dataset, and return its root."""
    root, served = folder / "sdd", folder / "world"
    metadata = served / METADATA
    if not metadata.exists():
        log.info("composing %d scenes in %s", scenes, served)
        names = few_names() if few_classes else labelled_names()
        config = world.model_copy(update={"scenes": world.scenes.model_copy(update={"names": names})})
        write_world(served, scenes, SEED, config)
    with world_server(served):
        build(labeling.model_copy(update={"root": str(root), "urls": str(metadata)}), LocalTaskRunner())
    return str(root)


def image_count(root: str) -> int:
    """Return the number of images that a dataset holds."""
    store = ShardStore(root)
    return sum(len(store.keys(Layer.SDD, shard)) for shard in store.shards(Layer.SDD))


def few_names() -> tuple[str, ...]:
    """Return the sprites of every `CLASS_WORD_STEP`-th class word, among those that the labelling networks know."""
    class_words = {sprite.name: sprite.class_word for sprite in sprites()}
    kept = set(list(dict.fromkeys(class_words[name] for name in labelled_names()))[::CLASS_WORD_STEP])
    return tuple(name for name in labelled_names() if class_words[name] in kept)
