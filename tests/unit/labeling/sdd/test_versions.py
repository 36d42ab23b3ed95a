"""Datasets of version 1 are read, and resumed in their own version.

tests/golden/sdd_version_1 was written by the program before version 2. Its shard 0 is that of
`tests.factories.labelled`, finished; its shard 1 is image 13 with DOG and CAT, interrupted after detections/.
"""

import shutil
from dataclasses import replace
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from labeling.config import RulesConfig
from labeling.errors import ShardCorrupt
from labeling.finish import FinishJob
from labeling.sdd.schema import (
    VERSION,
    Caption,
    Detections,
    Entities,
    LedgerRow,
    Nouns,
    SddRow,
    State,
)
from labeling.sdd.shards import ShardStore
from tests.factories import CAT, DOG, FOUND, SHARD, image, key, labelled
from training.data.config import DataConfig
from training.data.plan import PlannedRow, read_plan
from training.data.rows import RowReader

OLD = Path(__file__).parents[3] / "golden" / "sdd_version_1"
NEXT = "shard-00001"
LAYERS = ("images", "captions", "nouns", "detections", "entities")


@pytest.fixture
def store(tmp_path) -> ShardStore:
    shutil.copytree(OLD, tmp_path / "sdd")
    return ShardStore(str(tmp_path / "sdd"))


def finish(store: ShardStore, shard: str):
    report = FinishJob(root=str(store.root), rules=RulesConfig(), layers=LAYERS).make(shard)
    assert report.error is None
    return report


def version(store: ShardStore, layer: str, shard: str = SHARD) -> int:
    return int(pq.read_metadata(store.path(layer, shard).path).metadata[b"version"])


def test_the_golden_dataset_is_of_version_1(store):
    assert {version(store, layer) for layer in ("urls", *LAYERS, "sdd", "ledger")} == {1}


@pytest.mark.parametrize("row", [Nouns, Detections, Entities, SddRow])
def test_every_layer_reads_as_if_it_were_written_today(store, tmp_path, row):
    today = labelled(tmp_path / "today")
    finish(today, SHARD)
    layer = "sdd" if row is SddRow else row.__name__.lower()
    rows = list(store.read(row, [layer], SHARD))
    expected = list(today.read(row, [layer], SHARD))
    assert rows == ([replace(nouns, removed_nouns=None) for nouns in expected] if row is Nouns else expected)
    assert len(rows) > 0


def test_what_version_1_did_not_record_is_none(store, tmp_path):
    today = labelled(tmp_path / "today")
    finish(today, SHARD)
    for old, new in zip(*(list(s.read(LedgerRow, ["ledger"], SHARD)) for s in (store, today)), strict=True):
        assert (old.key, old.state, old.reason, old.detail) == (new.key, new.state, new.reason, new.detail)
        assert [(c.label, c.score, c.broken) for c in old.candidates] == [
            (c.label, c.score, c.broken) for c in new.candidates
        ]
        assert {old.width_px, old.removed_nouns, *(c.mask_fill for c in old.candidates)} == {None}


def test_training_reads_it(store):
    plan = read_plan(DataConfig(dataset=str(store.root), image_px=64, batch_size=1), 0)
    reader = RowReader(str(store.root), {shard.name: shard.stamp for shard in plan.shards}, kept_bytes=1 << 20)
    row = reader.row(PlannedRow(SHARD, 0, 1))
    assert [row.caption[e.span_start : e.span_end] for e in row.entities] == ["cat", "dog"]


def test_finished_shards_are_not_made_again(store):
    before = store.path("sdd", SHARD).read_bytes()
    assert finish(store, SHARD).reused
    assert store.path("sdd", SHARD).read_bytes() == before


def test_an_interrupted_dataset_is_resumed_in_its_own_version(store):
    (found,) = store.read(Detections, ("images", "captions", "nouns", "detections"), NEXT)
    assert [(d.label, d.span_start, d.span_end) for d in found.detections] == [("dog", 2, 5), ("cat", 12, 15)]
    store.write_outcomes("entities", NEXT, [Entities(key=key(13), candidates=(DOG, CAT))], Entities, "entities")
    assert not finish(store, NEXT).reused
    for layer in ("entities", "sdd", "ledger"):
        old, new = (pq.read_schema(store.path(layer, shard).path) for shard in (SHARD, NEXT))
        assert old.remove_metadata() == new.remove_metadata()
        assert version(store, layer, NEXT) == 1
        assert len(pq.read_table(store.path(layer, SHARD).parent.path)) > 0  # one table, for those without this program
    (row,) = store.read(SddRow, ("sdd",), NEXT)
    assert (row.image, [e.label for e in row.entities]) == (image(13).image, ["cat", "dog"])
    assert [row.caption[e.span_start : e.span_end] for e in row.entities] == ["cat", "dog"]


def test_sdd_and_ledger_become_todays_when_they_are_moved_away(store):
    for layer in ("sdd", "ledger"):
        shutil.rmtree(store.root / layer)
    assert not finish(store, SHARD).reused
    assert version(store, "sdd") == version(store, "ledger") == VERSION
    fills = {row.key: [c.mask_fill for c in row.candidates] for row in store.read(LedgerRow, ["ledger"], SHARD)}
    assert fills[key(3)] == [0.5]
    assert fills[key(5)] == [None]


def test_a_damaged_neighbour_does_not_decide_the_version(store):
    Path(store.path("captions", SHARD).path).write_bytes(b"PAR1")
    store.write_outcomes("captions", "shard-00002", [Caption(key=key(20), caption="c")], Caption, "stamp")
    assert version(store, "captions", "shard-00002") == 1
    with pytest.raises(ShardCorrupt):
        store.stamp("captions", SHARD)


def test_the_golden_dataset_holds_every_state(store):
    assert {row.state for row in store.read(LedgerRow, ["ledger"], SHARD)} == set(State)
    assert len(list(store.read(Entities, ["entities"], SHARD))) == len(FOUND)
