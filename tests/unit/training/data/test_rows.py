"""Rows come from the row groups that are asked for, out of an object store in few requests."""

import pytest
from fsspec.implementations.memory import MemoryFile

from model.config import ModelConfig
from tests.factories import finished
from tests.unit.training.data.conftest import some_rows
from training.data.config import DataConfig
from training.data.loader import load_batches
from training.data.plan import PlannedRow, read_plan
from training.data.rows import RowReader

STAMPS = {f"shard-{n:05}": f"stamp of {n}" for n in range(2)}
PLACES = {
    5: PlannedRow("shard-00000", 0, 5),
    70: PlannedRow("shard-00000", 1, 6),
    102: PlannedRow("shard-00001", 0, 22),
}


def test_rows_are_those_that_were_written(dataset):
    reader = RowReader(dataset, STAMPS, kept_bytes=1)
    rows = some_rows(103)
    for number, place in PLACES.items():
        assert reader.key(place) == rows[number].key
        read, written = reader.row(place), rows[number]
        assert (read.key, read.caption, read.image) == (written.key, written.caption, written.image)
        assert (read.width_px, read.height_px) == (64, 48)
        assert [(one.label, one.box, one.mask) for one in read.entities] == [
            (one.label, one.box, one.mask) for one in written.entities
        ]


@pytest.fixture
def requests(monkeypatch) -> list[int]:
    """Sizes of the ranges that are read of files in memory, which stands for an object store."""
    asked: list[int] = []
    plain = MemoryFile.read

    def read(self, size=-1):
        asked.append(size)
        return plain(self, size)

    monkeypatch.setattr(MemoryFile, "read", read)
    return asked


def test_a_row_group_is_read_in_few_requests_and_once(requests, request):
    root = f"memory://{request.node.name}"
    finished(root, some_rows(103), rows_per_shard=80)
    reader = RowReader(root, STAMPS, kept_bytes=1 << 20)
    requests.clear()
    reader.row(PLACES[5])
    assert 1 < len(requests) <= 6
    requests.clear()
    reader.row(PLACES[5]._replace(row=7))
    assert requests == []


def test_row_groups_are_kept_within_their_memory(dataset):
    reader = RowReader(dataset, STAMPS, kept_bytes=1)
    groups = [reader.row(place) for place in PLACES.values()]
    assert len(groups) == 3
    assert len(reader.groups.kept) == 1


def test_training_reads_an_object_store(request, prompts):
    root = f"memory://{request.node.name}"
    finished(root, some_rows(20))
    of = DataConfig(dataset=root, image_px=48, subject_px=28, processes=0)
    plan = read_plan(of, 0)
    loaded = load_batches(plan, of, ModelConfig(), prompts, (0.5, 0.5, 0.5), range(plan.batches_per_epoch))
    assert {key for one in loaded for key in one.keys} == {row.key for row in some_rows(20)}
