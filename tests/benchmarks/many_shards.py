"""A finished dataset of any number of shards of 12 rows, which differ in the names that their footers hold."""

import json
from dataclasses import asdict
from pathlib import Path

from labeling.backends.load import load_captioner, load_detector, load_segmenter, load_tagger
from labeling.build import finish_part
from labeling.config import LabelingConfig
from labeling.download.image_shards import full_stamp
from labeling.download.lists.names import shard_name
from labeling.download.lists.url_list import Plan, variants_path
from labeling.sdd.schema import Layer
from labeling.sdd.shards import FIRST, ShardStore
from labeling.stages.caption import CaptionStage
from labeling.stages.detect import DetectStage
from labeling.stages.nouns import NounStage
from labeling.stages.segment import SegmentStage
from labeling.steps import Step, chain_stages, stamp_of
from tests.factories import labelled

LIST = "list"
"""Stamp of all files of urls/."""


def steps_without_weights(config: LabelingConfig) -> list[Step]:
    """Return the stages of a build that never loads a network."""
    return chain_stages(
        [
            (CaptionStage(config.caption, load_captioner), ""),
            (NounStage(config.nouns, load_tagger), ""),
            (DetectStage(config.detect, load_detector), ""),
            (SegmentStage(config.segment, load_segmenter), ""),
        ]
    )


def finished_dataset(root: Path, shards: int) -> tuple[LabelingConfig, list[Step]]:
    """Write the dataset; return settings and steps for which it is finished. The hashes of its files are not true."""
    config = LabelingConfig(root=str(root))
    steps = steps_without_weights(config)
    store = labelled(root, list_stamp=LIST, stamps=_stamps_as_built(config, steps))
    finish_part(config, steps, [FIRST])
    _publish_plan(store, config, shards)
    contents = {layer: Path(store.path(layer, FIRST).path).read_bytes() for layer in Layer}
    for number in range(1, shards):
        shard = shard_name(number)
        for layer, content in contents.items():
            (root / layer / f"{shard}.parquet").write_bytes(content.replace(FIRST.encode(), shard.encode()))
    return config, steps


def _stamps_as_built(config: LabelingConfig, steps: list[Step]) -> dict[str, str]:
    stamps: dict[str, str] = {Layer.IMAGES: full_stamp(stamp_of(Layer.IMAGES, config.download.fingerprint(), LIST), {})}
    parent = stamps[Layer.IMAGES]
    for step in steps:
        parent = stamps[step.stage.name] = step.stamp(parent)
    return stamps


def _publish_plan(store: ShardStore, config: LabelingConfig, shards: int) -> None:
    variants = variants_path(store)
    variants.parent.mkdir(parents=True)
    plan = Plan("", config.images_per_shard, shards)
    (variants.parent / "plan.json").write_text(json.dumps(asdict(plan)))
