"""Duplicates across shards leave the dataset with the image that they repeat as the reason."""

from pathlib import Path

import pytest

from labeling.cleaning.duplicates import Duplicates, Likeness, find_duplicates
from labeling.config import CleanConfig, RulesConfig
from labeling.finish import FinishJob, finish_stamp, stamp_of_settings
from labeling.sdd.schema import Entities, Image
from labeling.sdd.shards import ShardStore
from tests.factories import key, refused
from tests.unit.labeling.cleaning.labelled_images import LAYERS, hashed, verdicts, write_labelled

FAR = 0xF0F0_F0F0_F0F0_F0F0
SHARDS: list[list[Image]] = [
    [hashed(1, 0b0000), hashed(2, FAR), hashed(3, 0b0111)],
    [hashed(4, FAR ^ 0b11), hashed(5, 0b0000, encoded=b"image 1"), hashed(6, FAR << 4 & 2**64 - 1)],
]
"""4 is 2 bits from 2; 3 is 3 bits from 1; 5 is 1; 6 is like none."""
NEAR = CleanConfig(near_duplicate_bits=2)


def numbers(duplicates: Duplicates) -> dict[int, tuple[int, str, int]]:
    """Number of each duplicate: number of its original, likeness, bits."""
    return {
        int.from_bytes(k, "big"): (int.from_bytes(d.original, "big"), d.likeness.value, d.bits)
        for own in duplicates.values()
        for k, d in own.items()
    }


def found(root: Path, config: CleanConfig, shards: list[str]) -> dict[int, tuple[int, str, int]]:
    return numbers(find_duplicates(str(root), config, LAYERS, shards))


def test_exact_and_near_duplicates_are_found_across_shards(tmp_path: Path) -> None:
    shards = write_labelled(tmp_path, SHARDS)
    assert found(tmp_path, CleanConfig(duplicates=True), shards) == {5: (1, "duplicate", 0)}
    assert found(tmp_path, NEAR, shards) == {4: (2, "near_duplicate", 2), 5: (1, "duplicate", 0)}
    wider = found(tmp_path, CleanConfig(near_duplicate_bits=3), shards)
    assert wider == found(tmp_path, NEAR, shards) | {3: (1, "near_duplicate", 3)}


def test_within_a_shard_the_image_with_more_pixels_stays(tmp_path: Path) -> None:
    shards = write_labelled(tmp_path, [[hashed(1), hashed(2, width_px=640, height_px=480), hashed(3)]])
    assert {k: original for k, (original, _, _) in found(tmp_path, NEAR, shards).items()} == {1: 2, 3: 2}


def test_later_shards_do_not_change_what_was_found(tmp_path: Path) -> None:
    shards = write_labelled(tmp_path, SHARDS)
    before = find_duplicates(str(tmp_path), CleanConfig(near_duplicate_bits=3), LAYERS, shards[:1])
    after = find_duplicates(str(tmp_path), CleanConfig(near_duplicate_bits=3), LAYERS, shards)
    assert before == {shards[0]: after[shards[0]]}


def test_an_image_that_a_stage_refused_is_no_original(tmp_path: Path) -> None:
    shards = write_labelled(tmp_path, [[hashed(1)], [hashed(2, encoded=b"image 1")]])
    (tmp_path / "entities" / f"{shards[0]}.parquet").unlink()
    ShardStore(str(tmp_path)).write_outcomes("entities", shards[0], [refused(1)], Entities, "entities")
    assert found(tmp_path, NEAR, shards) == {}


def test_the_ledger_names_the_original_and_its_sums_hold(tmp_path: Path) -> None:
    shards = write_labelled(tmp_path, SHARDS)
    duplicates = find_duplicates(str(tmp_path), NEAR, LAYERS, shards)
    job = FinishJob(root=str(tmp_path), rules=RulesConfig(), layers=LAYERS, clean=NEAR, duplicates=duplicates)
    judged = verdicts(job, shards)
    assert {number: reason for number, (reason, _) in judged.items() if reason} == {
        4: Likeness.NEAR_DUPLICATE,
        5: Likeness.DUPLICATE,
    }
    assert judged[4][1] == f"of {key(2).hex()} in shard-00000, 2 bits apart"
    store = ShardStore(str(tmp_path))
    assert [store.keys("sdd", shard) for shard in shards] == [[key(1), key(2), key(3)], [key(6)]]
    for shard, images in zip(shards, SHARDS, strict=True):
        stamp = store.stamp("ledger", shard)
        assert stamp is not None
        assert sum(stamp.counts.values()) == len(images)


def test_a_shard_is_made_again_only_if_its_own_duplicates_changed(tmp_path: Path) -> None:
    """As when an earlier shard gains images: the settings are the same, so the file is not stale."""
    shards = write_labelled(tmp_path, SHARDS)

    def run(duplicates: Duplicates) -> list[bool]:
        job = FinishJob(root=str(tmp_path), rules=RulesConfig(), layers=LAYERS, clean=NEAR, duplicates=duplicates)
        reports = [job.make(shard) for shard in shards]
        assert [report.error for report in reports] == [None, None]
        return [report.reused for report in reports]

    everything = find_duplicates(str(tmp_path), NEAR, LAYERS, shards)
    assert run({}) == [False, False]
    assert run(everything) == [True, False]
    assert run(everything) == [True, True]


def test_without_cleaning_stamps_are_what_they_were() -> None:
    assert finish_stamp(RulesConfig(), "parent", clean=CleanConfig()) == finish_stamp(RulesConfig(), "parent")
    assert finish_stamp(RulesConfig(), "parent") == "b4833d3815b9"
    stamp = finish_stamp(RulesConfig(), "parent", clean=NEAR)
    assert stamp == stamp_of_settings(stamp) != finish_stamp(RulesConfig(), "parent")


@pytest.mark.parametrize("rule", [{"duplicates": True}, {"near_duplicate_bits": 0}, {"min_mask_quality": 0.1}])
def test_a_rule_that_is_on_makes_sdd_stale(tmp_path: Path, rule: dict[str, object]) -> None:
    (shard,) = write_labelled(tmp_path, SHARDS[:1])
    job = FinishJob(root=str(tmp_path), rules=RulesConfig(), layers=LAYERS)
    assert job.make(shard).error is None
    job.clean = CleanConfig.model_validate(rule)
    assert "labeling.stale=rebuild" in (job.make(shard).error or "")
