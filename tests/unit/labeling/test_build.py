"""What a build may make again, and what it refuses to."""

import pytest

from labeling.build import finish_part, label_part
from labeling.config import DownloadConfig, LabelingConfig
from labeling.errors import StageFailed
from labeling.sdd.schema import Image, LedgerRow
from labeling.sdd.shards import ShardStore
from labeling.steps import Step, chain
from tests.factories import SHARD, downloaded, image, labelled
from tests.moody import MoodyConfig, MoodyStage


def config_of(root, **download) -> LabelingConfig:
    return LabelingConfig(root=str(root), download=DownloadConfig(**download))


def moody_steps() -> list[Step]:
    return chain([(MoodyStage(MoodyConfig()), "")])


def test_a_shard_that_gained_images_is_labelled_again(tmp_path):
    """`retry_failed` gives images/ another stamp, which is no reason to refuse."""
    store = downloaded(tmp_path, [image(1, url="good 1")])
    (step,) = moody_steps()
    label_part(config_of(tmp_path), step, [SHARD], "run")
    gained = [image(n, url=f"good {n}") for n in (1, 2)]
    store.write_outcomes("images", SHARD, gained, Image, "with more images", replace=True)
    with pytest.raises(StageFailed, match=r"labeling\.stale=rebuild"):
        label_part(config_of(tmp_path), step, [SHARD], "run")
    (report,) = label_part(config_of(tmp_path, retry_failed=True), step, [SHARD], "run")
    assert (report.counts, report.reused) == ({"kept": 2}, False)


def test_a_shard_that_gained_images_is_finished_again(tmp_path):
    store = labelled(tmp_path)
    steps = chain([(stage_named(layer), "") for layer in ("captions", "nouns", "detections", "entities")])
    store.write("ledger", SHARD, [], LedgerRow, "of fewer images")
    with pytest.raises(StageFailed, match=r"labeling\.stale=rebuild"):
        finish_part(config_of(tmp_path), steps, [SHARD])
    finish_part(config_of(tmp_path, retry_failed=True), steps, [SHARD])
    assert len(list(ShardStore(str(tmp_path)).read(LedgerRow, ["ledger"], SHARD))) == 12


def stage_named(layer):
    return type("Named", (MoodyStage,), {"name": layer})(MoodyConfig())
