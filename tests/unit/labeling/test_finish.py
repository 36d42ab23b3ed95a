"""The rules make `sdd/`, and every input URL has its line in `ledger/`."""

from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest

from labeling.config import RulesConfig
from labeling.finish import FinishJob
from labeling.sdd.lock import shard_lock
from labeling.sdd.schema import Caption, Entities, LedgerRow, Nouns, RemovedNoun, SddRow, State
from labeling.sdd.shards import ShardStore
from tests.factories import FOUND, REFUSED, REMOVED, SHARD, candidate, image, key, labelled, refused

FATES = {
    1: ("kept", "sdd", ""),
    2: ("kept", "sdd", ""),
    3: ("dropped", "sdd", "thin_mask"),
    4: ("dropped", "sdd", "aspect_ratio"),
    5: ("dropped", "sdd", "no_mask"),
    6: ("dropped", "sdd", "no_candidate"),
    7: ("not_downloaded", "images", "http_404"),
    8: ("dropped", "images", "small_image"),
    9: ("failed", "captions", "ValueError"),
    10: ("dropped", "nouns", "no_noun"),
    11: ("dropped", "detections", "no_box"),
    12: ("quarantined", "entities", "crash"),
}
"""State, stage and reason of each image of `labelled`."""


@pytest.fixture
def root(tmp_path) -> str:
    labelled(tmp_path)
    return str(tmp_path)


def finish(root, rules=None, **options):
    layers = ("images", "captions", "nouns", "detections", "entities")
    return FinishJob(root=root, rules=rules or RulesConfig(), layers=layers, **options).make(SHARD)


def ledger(root):
    return {int.from_bytes(row.key, "big"): row for row in ShardStore(root).read(LedgerRow, ["ledger"], SHARD)}


def dataset(root):
    return list(ShardStore(root).read(SddRow, ["sdd"], SHARD))


def test_each_url_has_one_line_with_its_state_stage_and_reason(root):
    report = finish(root)
    assert report.error is None
    assert {n: (row.state, row.stage, row.reason) for n, row in ledger(root).items()} == FATES
    assert report.counts == Counter(state for state, _, _ in FATES.values())
    assert sum(report.counts.values()) == ShardStore(root).stamp("urls", SHARD).counts["kept"]
    assert {state for state, _, _ in FATES.values()} == set(State)


def test_the_ledger_has_the_removed_nouns_of_kept_and_of_dropped_images(tmp_path):
    photo = RemovedNoun(label="photo", reason="stop_word")
    tags = Nouns(key=key(10), nouns=(), removed_nouns=(photo,))
    stopped = replace(refused(10, State.DROPPED, "only_stop_nouns"), row=tags)
    labelled(tmp_path, FOUND, REFUSED | {10: ("nouns", stopped)})
    finish(str(tmp_path))
    lines = ledger(str(tmp_path))
    assert {n: line.removed_nouns for n, line in lines.items() if line.removed_nouns} == REMOVED | {10: (photo,)}
    assert (lines[10].state, lines[10].stage, lines[10].reason) == ("dropped", "nouns", "only_stop_nouns")
    assert {lines[n].removed_nouns for n in (7, 8, 9)} == {None}, "without nouns/"
    assert {lines[n].removed_nouns for n in (1, 11, 12)} == {()}


def test_what_is_kept_is_the_dataset(root):
    finish(root)
    kept = [n for n, (state, _, _) in FATES.items() if state == "kept"]
    rows = dataset(root)
    assert [row.key for row in rows] == [key(n) for n in kept]
    for number, row in zip(kept, rows, strict=True):
        picture = image(number)
        assert (row.image, row.sha256, row.url) == (picture.image, picture.sha256, picture.url)
        assert row.caption == f"a dog and a cat {number}"


def test_entities_are_what_broke_no_rule_largest_first(root):
    finish(root)
    two = next(row for row in dataset(root) if row.key == key(2))
    assert [(e.label, e.box.area_px) for e in two.entities] == [("cat", 1200.0), ("dog", 400.0)]
    for entity in two.entities:
        assert entity.mask_area_px == entity.box.area_px
        assert two.caption[entity.span_start : entity.span_end] == entity.label


def test_the_ledger_has_every_candidate_with_the_rules_it_broke(root):
    finish(root)
    lines = ledger(root)
    assert [(c.label, c.broken) for c in lines[2].candidates] == [
        ("dog", ()),
        ("cat", ()),
        ("cat", ("low_score",)),
    ]
    assert [c.broken for c in lines[4].candidates] == [("aspect_ratio", "box_share"), ("aspect_ratio",)]
    assert lines[4].detail == "aspect_ratio box_share; aspect_ratio"
    assert [lines[n].candidates for n in REFUSED] == [()] * len(REFUSED)
    assert [lines[n].detail for n in REFUSED] == [f"detail of {n}" for n in REFUSED]


def test_another_rule_makes_sdd_and_ledger_again_and_nothing_else(root):
    def files():
        return {p.relative_to(root): p.stat().st_ino for p in Path(root).rglob("*.parquet")}

    finish(root)
    before = files()
    strict = RulesConfig(min_score=0.95)
    assert "labeling.stale=rebuild" in finish(root, strict).error
    assert files() == before
    report = finish(root, strict, replace=True)
    assert (report.error, report.reused, report.counts.get("kept", 0)) == (None, False, 0)
    changed = {path.parts[0] for path, inode in files().items() if before[path] != inode}
    assert changed == {"sdd", "ledger"}
    assert finish(root, strict).reused


def test_equal_rules_reuse(root):
    first = finish(root)
    again = finish(root, RulesConfig(), replace=True)
    assert (first.reused, again.reused) == (False, True)
    assert again.counts == first.counts


@pytest.mark.parametrize("layer", ["sdd", "ledger"])
def test_a_lost_file_is_made_again(root, layer):
    finish(root)
    path = Path(ShardStore(root).path(layer, SHARD).path)
    before = path.read_bytes()
    path.unlink()
    report = finish(root)
    assert (report.error, report.reused) == (None, False)
    assert path.read_bytes() == before


def test_a_file_left_by_a_build_under_other_rules_is_not_taken_for_ours(root):
    """As a rebuild does that dies between the two files."""
    finish(root)
    store = ShardStore(root)
    store.write("sdd", SHARD, [], SddRow, "other", replace=True)
    assert f"{store.path('sdd', SHARD)} is stamped other" in finish(root).error
    assert finish(root, replace=True).error is None
    assert len(dataset(root)) == 2


def test_a_lost_row_is_a_corrupt_shard(root):
    store = ShardStore(root)
    entities = list(store.read(Entities, ["entities"], SHARD))
    store.write_outcomes("entities", SHARD, entities[1:], Entities, "entities", replace=True)
    report = finish(root)
    assert "ShardCorrupt" in report.error
    assert key(1).hex() in report.error
    assert image(1).url in report.error
    assert store.stamp("ledger", SHARD) is None


def test_a_row_too_many_is_a_corrupt_shard(root):
    store = ShardStore(root)
    entities = [*store.read(Entities, ["entities"], SHARD), Entities(key=key(99), candidates=())]
    store.write_outcomes("entities", SHARD, entities, Entities, "entities", replace=True)
    report = finish(root)
    assert "ShardCorrupt" in report.error
    assert key(99).hex() in report.error


def test_a_layer_that_is_not_there_is_named(tmp_path):
    assert f"{tmp_path}/entities/{SHARD}.parquet does not exist" in finish(str(tmp_path)).error


def test_an_image_goes_for_the_first_rule_of_its_best_candidate(tmp_path):
    hopeless = candidate((0, 0, 2, 40), score=0.1, size=(64, 48))
    thin = candidate((0, 0, 40, 40), fill=0.2, size=(64, 48))
    labelled(tmp_path, {1: (hopeless, replace(thin, label="cat"))}, {})
    finish(str(tmp_path))
    line = ledger(str(tmp_path))[1]
    assert (line.reason, line.detail) == ("thin_mask", "aspect_ratio box_share low_score; thin_mask")


def test_a_shard_of_refused_urls_is_finished(tmp_path):
    labelled(tmp_path, {}, {1: ("images", refused(1)), 2: ("nouns", refused(2, State.DROPPED, "no_noun"))})
    report = finish(str(tmp_path))
    assert (report.error, report.counts) == (None, {"failed": 1, "dropped": 1})
    assert dataset(str(tmp_path)) == []


def test_one_builder_at_a_time(root, monkeypatch):
    from labeling.sdd import lock

    monkeypatch.setattr(lock, "TIMEOUT_S", 0.1)
    with shard_lock(ShardStore(root).root, "sdd", SHARD):
        assert "another build" in finish(root).error
    assert finish(root).error is None


def test_captions_of_all_alphabets_are_kept(tmp_path):
    store = labelled(tmp_path, {1: (candidate((0, 0, 20, 20)),), 2: (candidate((0, 0, 20, 20)),)}, {})
    texts = {1: "un chien à côté d'une église", 2: "犬と猫 \U0001f415"}
    captions = [Caption(key=key(n), caption=text) for n, text in texts.items()]
    store.write_outcomes("captions", SHARD, captions, Caption, "captions", replace=True)
    finish(str(tmp_path))
    assert [row.caption for row in dataset(str(tmp_path))] == list(texts.values())
