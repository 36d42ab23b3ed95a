"""Each epoch holds each row once, in batches of one number of subjects, in an order that reading is cheap in."""

from collections import Counter

import numpy as np
import pyarrow.parquet as pq
import pytest

from labeling.sdd.schema import Box, SddRow
from labeling.sdd.shards import ShardStore
from tests.factories import entity, finished, sdd_row
from tests.unit.training.data.conftest import some_rows
from training.data.config import DataConfig
from training.data.errors import DatasetError
from training.data.plan import Plan, PlannedShard, read_plan


def plan_of(shards=4, groups=8, seed=0, **settings) -> Plan:
    rng = np.random.default_rng(1)
    made = [
        PlannedShard(
            f"shard-{n:05}", "stamp", (64,) * groups + (7,), rng.integers(1, 5, 64 * groups + 7).astype(np.uint8)
        )
        for n in range(shards)
    ]
    return Plan(made, DataConfig(dataset="unused", **settings), seed)


def epoch_of(plan, epoch):
    first = epoch * plan.batches_per_epoch
    return [plan.batch(number) for number in range(first, first + plan.batches_per_epoch)]


@pytest.mark.parametrize("streams", [1, 3, 8, 1000])
@pytest.mark.parametrize("batch_size", [1, 12, 5000])
def test_an_epoch_holds_each_row_once(streams, batch_size):
    plan = plan_of(streams=streams, batch_size=batch_size)
    for epoch in range(2):
        batches = epoch_of(plan, epoch)
        rows = Counter(row for batch in batches for row in batch.rows)
        assert len(rows) == plan.rows_per_epoch == 4 * (8 * 64 + 7)
        assert set(rows.values()) == {1}
        assert {batch.epoch for batch in batches} == {epoch}
        short = [batch for batch in batches if len(batch.rows) < batch_size]
        assert len(short) == len({batch.subjects for batch in short})
        assert max(len(batch.rows) for batch in batches) <= batch_size


def test_a_batch_has_rows_of_one_number_of_subjects():
    plan = plan_of()
    subjects = {shard.name: shard.subjects for shard in plan.shards}
    for batch in epoch_of(plan, 0):
        of_rows = {int(subjects[row.shard][64 * row.row_group + row.row]) for row in batch.rows}
        assert of_rows == {batch.subjects}


def test_the_order_is_of_seed_and_epoch():
    assert [plan_of().batch(n) for n in range(150)] == [plan_of().batch(n) for n in range(150)]
    assert [plan_of().batch(n).rows for n in range(50)] != [plan_of(seed=1).batch(n).rows for n in range(50)]
    plan = plan_of()
    assert plan.batch(0).rows != plan.batch(plan.batches_per_epoch).rows
    back = [plan.batch(plan.batches_per_epoch * epoch) for epoch in (3, 0, 3, 2, 0)]
    assert back[0] == back[2]
    assert back[1] == back[4] == plan_of().batch(0)


def test_who_takes_every_eighth_batch_meets_few_row_groups():
    plan = plan_of(shards=40, streams=8, window=2)
    full = [plan.batch(number) for number in range(0, plan.batches_per_epoch * 3 // 4, 8)]
    met = [{(row.shard, row.row_group) for row in batch.rows} for batch in full]
    assert max(map(len, met)) <= 8  # a window, and what was left of the one before
    groups = Counter(group for groups in met for group in groups)
    assert len(groups) < 1.2 * len(full) * 12 / 64
    others = {group for n in range(1, 200, 8) for group in {(r.shard, r.row_group) for r in plan.batch(n).rows}}
    assert not groups.keys() & others


@pytest.mark.parametrize("change", [{"batch_size": 6}, {"max_subjects": 1}, {"streams": 4}, {"window": 1}, {"seed": 3}])
def test_the_stamp_is_of_what_decides_the_order(change, dataset):
    def stamp(seed=0, **settings):
        return read_plan(DataConfig(dataset=dataset, **settings), seed).stamp

    assert stamp(processes=3, image_px=64, prefetch=5) == stamp()
    assert stamp(**change) != stamp()


def test_the_stamp_is_of_the_dataset(tmp_path):
    config = DataConfig(dataset=str(tmp_path))
    store = finished(tmp_path, some_rows(5))
    before = read_plan(config, 0).stamp
    store.write("sdd", "shard-00000", some_rows(5), SddRow, "other stamp", replace=True)
    assert read_plan(config, 0).stamp != before


def test_a_dataset_is_read(dataset):
    plan = read_plan(DataConfig(dataset=dataset), 0)
    assert plan.rows_per_epoch == 103
    assert [shard.rows_by_group for shard in plan.shards] == [(64, 16), (23,)]
    named = [min(len(row.entities), 2) for row in some_rows(103)]  # no square holds the left and the right one
    assert np.concatenate([shard.subjects for shard in plan.shards]).tolist() == named


def test_rows_without_a_proper_box_are_planned_all_the_same(tmp_path):
    nan = float("nan")
    broken = entity((2, 4, 22, 44))
    object.__setattr__(broken, "box", Box(x0=nan, y0=nan, x1=nan, y1=nan))
    finished(tmp_path, [sdd_row(0, []), sdd_row(1, [broken]), sdd_row(2, [entity((2, 4, 22, 44))])])
    assert read_plan(DataConfig(dataset=str(tmp_path)), 0).shards[0].subjects.tolist() == [1, 1, 1]


def test_what_is_no_dataset_is_said_to_be_none(tmp_path):
    def said(root):
        with pytest.raises(DatasetError) as error:
            read_plan(DataConfig(dataset=str(root)), 0)
        assert "\n" not in str(error.value)
        return str(error.value)

    assert f"{tmp_path}/nowhere/sdd has no shards" in said(tmp_path / "nowhere")
    finished(tmp_path / "other", [sdd_row(0, [entity((2, 4, 22, 44))])])
    path = tmp_path / "other/sdd/shard-00000.parquet"
    table = pq.read_table(path)
    ShardStore(str(tmp_path / "empty")).write("sdd", "shard-00000", [], SddRow, "stamp")
    assert "the 1 shards of" in said(tmp_path / "empty")
    pq.write_table(table.replace_schema_metadata({"version": "99"}), path)
    assert "shard-00000.parquet has format version 99" in said(tmp_path / "other")
    path.write_bytes(path.read_bytes()[:-100])
    assert "shard-00000.parquet is damaged" in said(tmp_path / "other")
