"""The index saves opening files that have not changed, and never hides a change."""

import os
import time
from pathlib import Path

import pytest

from labeling.audit import audit
from labeling.sdd.file_index import SETTLED_S, FileIndex, index_of
from labeling.sdd.query import funnel
from labeling.sdd.schema import Layer
from labeling.sdd.shards import FIRST, ShardStore
from tests.sound_dataset import sound_dataset


@pytest.fixture
def store(tmp_path) -> ShardStore:
    root = sound_dataset(tmp_path)
    time.sleep(SETTLED_S)
    return ShardStore(str(root))


def in_a_new_process(store: ShardStore) -> FileIndex:
    index_of.cache_clear()
    index = ShardStore(str(store.root)).index
    index.load()
    return index


def known(index: FileIndex, layer: str) -> bool:
    return index.find(layer, FIRST, index.identity(layer, FIRST)) is not None


def test_the_next_process_knows_all_files_and_finds_the_same(store):
    first = audit(str(store.root))
    index = in_a_new_process(store)
    assert all(known(index, layer) for layer in Layer)
    again = audit(str(store.root))
    assert (again.problems, again.funnel()) == (first.problems, funnel(str(store.root)))
    assert [file.contents for file in again.files[Layer.LEDGER].values()] == [
        file.contents for file in first.files[Layer.LEDGER].values()
    ]


def flip_a_bit(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[-20] ^= 1
    path.write_bytes(content)


def truncate(path: Path) -> None:
    os.truncate(path, path.stat().st_size - 1)


def swap(path: Path) -> None:
    path.unlink()
    os.link(path.parents[1] / Layer.URLS / path.name, path)


@pytest.mark.parametrize("change", [flip_a_bit, truncate, swap])
def test_a_file_that_has_changed_is_opened_again(store, change):
    assert audit(str(store.root)).problems == ()
    change(Path(store.path(Layer.CAPTIONS, FIRST).path))
    assert not known(in_a_new_process(store), Layer.CAPTIONS)
    assert str(store.path(Layer.CAPTIONS, FIRST)) in " ".join(audit(str(store.root)).problems)


def test_a_file_that_may_change_within_a_tick_of_the_clock_is_not_indexed(store):
    path = Path(store.path(Layer.CAPTIONS, FIRST).path)
    path.write_bytes(path.read_bytes())
    assert store.stamp(Layer.CAPTIONS, FIRST) is not None
    assert not known(store.index, Layer.CAPTIONS)


def test_a_damaged_index_costs_time_alone(store, caplog):
    audit(str(store.root))
    (store.root / "work" / "index" / f"{Layer.URLS}.json").write_text('{"shard-00000": [1')
    assert not known(in_a_new_process(store), Layer.URLS)
    assert "is unreadable" in caplog.text
    assert audit(str(store.root)).problems == ()
