"""What a worker is given: the plan's rows, each once, whoever loads them, without the poisoned ones."""

import dataclasses
import multiprocessing
import shutil
import threading
import weakref
from collections import Counter

import numpy as np
import psutil
import pytest
import torch

from labeling.sdd.schema import Box, SddRow
from model.config import ModelConfig
from tests.factories import finished
from tests.processes import PATIENCE_S, wait_until
from tests.unit.training.data.conftest import some_rows
from training.data.config import DataConfig
from training.data.errors import DatasetError, StorageFault
from training.data.loader import load_batches
from training.data.plan import read_plan

MEAN = (0.5, 0.5, 0.5)
MODEL = ModelConfig()


def config(dataset, **settings) -> DataConfig:
    return DataConfig(dataset=dataset, **{"image_px": 48, "subject_px": 28, "batch_size": 8, "processes": 0} | settings)


def loaded(of, prompts, numbers, seed=0):
    return list(load_batches(read_plan(of, seed), of, MODEL, prompts, MEAN, numbers))


def tensors(batch):
    own = [getattr(batch, f.name) for f in dataclasses.fields(batch)]
    own += [getattr(batch.prompts, f.name) for f in dataclasses.fields(batch.prompts)]
    return [part for part in own if isinstance(part, torch.Tensor)]


def test_a_batch_is_whole(dataset, prompts):
    of = config(dataset)
    plan = read_plan(of, 0)
    by_key = {row.key: row for row in some_rows(103)}
    for one in loaded(of, prompts, range(plan.batches_per_epoch)):
        planned = plan.batch(one.number)
        images, subjects = one.rows, planned.subjects
        assert images == len(planned.rows)
        assert one.batch.images.shape == (images, 3, 48, 48)
        assert one.batch.images.dtype == one.batch.subject_images.dtype == torch.uint8
        assert one.batch.subject_images.shape == (images, subjects, 3, 28, 28)
        assert one.batch.masks.shape == (images, subjects, 6, 6)
        assert one.batch.boxes.shape == (images, subjects, 4)
        assert one.batch.present.all()
        assert one.batch.full
        assert ((one.batch.boxes >= 0) & (one.batch.boxes <= 1)).all()
        assert (one.batch.boxes[..., 2:] > one.batch.boxes[..., :2]).all()
        assert one.batch.images.is_contiguous(memory_format=torch.channels_last)
        words = prompts.tokenizer.batch_decode(one.batch.prompts.token_ids)
        assert all(by_key[key].caption.split(",")[0] in word for key, word in zip(one.keys, words, strict=True))


def shares(of, prompts, workers, steps):
    """The batches that each of so many workers takes, step by step."""
    plan = read_plan(of, 0)
    numbers = [[step * workers + rank for step in steps] for rank in range(workers)]
    return [list(load_batches(plan, of, MODEL, prompts, MEAN, mine)) for mine in numbers]


def keys_of(parts):
    return Counter(key for part in parts for one in part for key in one.keys)


@pytest.mark.parametrize("workers", [1, 2, 3, 4])
def test_103_rows_are_103_rows_for_any_number_of_workers(dataset, prompts, workers):
    of = config(dataset)
    epoch = read_plan(of, 0).batches_per_epoch
    numbers = [[number for number in range(epoch) if number % workers == rank] for rank in range(workers)]
    parts = [loaded(of, prompts, mine) for mine in numbers]
    assert keys_of(parts) == Counter(row.key for row in some_rows(103))


@pytest.mark.parametrize("after", [1, 3, 4])
def test_a_job_that_goes_on_with_other_workers_reads_the_same_rows(dataset, prompts, after):
    of = config(dataset, batch_size=4)
    epoch = read_plan(of, 0).batches_per_epoch
    before = shares(of, prompts, 2, range(3))
    taken = 2 * 3
    left = range(taken, epoch)
    rest = [loaded(of, prompts, left[rank::after]) for rank in range(after)]
    assert keys_of([*before, *rest]) == Counter(row.key for row in some_rows(103))


def test_processes_deliver_what_the_worker_itself_would(dataset, prompts):
    alone = loaded(config(dataset), prompts, range(6))
    together = loaded(config(dataset, processes=2), prompts, range(6))
    assert [one.number for one in together] == list(range(6))
    for one, other in zip(alone, together, strict=True):
        assert one.keys == other.keys
        assert all(torch.equal(a, b) for a, b in zip(tensors(one.batch), tensors(other.batch), strict=True))


def test_loading_leaves_the_random_state_of_the_worker_alone(dataset, prompts):
    before = torch.get_rng_state(), np.random.get_state()[1].copy()
    loaded(config(dataset, processes=1), prompts, range(2))
    assert torch.equal(before[0], torch.get_rng_state())
    assert (before[1] == np.random.get_state()[1]).all()


def test_a_worker_that_stops_early_leaves_no_process_behind(dataset, prompts):
    of = config(dataset, processes=2)
    stream = load_batches(read_plan(of, 0), of, MODEL, prompts, MEAN, iter(int, 1))  # batch 0 without end
    next(stream)
    children = multiprocessing.active_children()
    assert len(children) >= 2
    stream.close()
    for child in children:
        child.join(PATIENCE_S)
    assert not any(child.is_alive() for child in children)


def load_for_ever(dataset, prompts, ready):
    of = config(dataset, processes=2)
    for _ in load_batches(read_plan(of, 0), of, MODEL, prompts, MEAN, iter(int, 1)):
        ready.touch()


def test_a_worker_that_is_killed_leaves_no_process_behind(dataset, prompts, tmp_path, processes):
    ready = tmp_path / "ready"
    worker = processes.fork(load_for_ever, dataset, prompts, ready).process
    wait_until("a batch", ready.exists, worker.is_alive)
    below = psutil.Process(worker.pid).children(recursive=True)
    assert len(below) >= 3, "two that load, and the server that forks them"
    worker.kill()
    _, left = psutil.wait_procs(below, timeout=PATIENCE_S)
    for process in left:
        process.kill()
    assert left == []


def poisoned(rows):
    nan = float("nan")
    first = rows[0].entities[0]
    changes = {
        0: {"image": rows[0].image[:-40]},
        1: {"entities": (dataclasses.replace(rows[1].entities[0], box=Box(x0=nan, y0=0, x1=9, y1=9)),)},
        2: {"entities": (dataclasses.replace(first, mask=dataclasses.replace(first.mask, counts=b"")),)},
        3: {"caption": "no"},
    }
    return [dataclasses.replace(row, **changes.get(n, {})) for n, row in enumerate(rows)]


def test_a_poisoned_row_costs_itself_and_a_count(tmp_path, prompts):
    rows = poisoned(some_rows(30))
    finished(tmp_path, rows)
    of = config(str(tmp_path))
    plan = read_plan(of, 0)
    one_epoch = loaded(of, prompts, range(plan.batches_per_epoch))
    skipped = {one.key: one for part in one_epoch for one in part.skipped}
    assert {int.from_bytes(key, "big"): one.reason for key, one in skipped.items()} == {
        0: "truncated",
        1: "box_not_finite",
        2: "corrupt_mask",
        3: "label_not_in_caption",
    }
    assert keys_of([one_epoch]) == Counter(row.key for row in rows[4:])
    assert all(one.detail for one in skipped.values())
    place = skipped[rows[3].key].row
    assert (place.shard, place.row_group, place.row) == ("shard-00000", 0, 3)


def test_a_batch_of_poison_is_none(tmp_path, prompts):
    rows = poisoned(some_rows(30))[:4]
    finished(tmp_path, rows)
    of = config(str(tmp_path))
    parts = loaded(of, prompts, range(read_plan(of, 0).batches_per_epoch))
    assert {one.batch for one in parts} == {None}
    assert sum(len(one.skipped) for one in parts) == 4
    assert {one.rows for one in parts} == {0}


@pytest.mark.parametrize("processes", [0, 1])
def test_a_shard_that_is_gone_is_named(tmp_path, prompts, processes):
    finished(tmp_path, some_rows(20))
    of = config(str(tmp_path), processes=processes)
    plan = read_plan(of, 0)
    shutil.rmtree(tmp_path / "sdd")
    with pytest.raises(DatasetError, match=r"^\S*sdd/shard-00000\.parquet is missing: [^\n]*$"):
        list(load_batches(plan, of, MODEL, prompts, MEAN, [0]))


@pytest.mark.parametrize("processes", [0, 1])
def test_a_shard_that_the_storage_does_not_give_is_named(tmp_path, prompts, processes):
    finished(tmp_path, some_rows(20))
    of = config(str(tmp_path), processes=processes)
    plan = read_plan(of, 0)
    path = tmp_path / "sdd/shard-00000.parquet"
    path.unlink()
    path.symlink_to(path)  # to itself
    said = r"^\S*shard-00000\.parquet cannot be read \([^\n]*Too many levels of symbolic links"
    with pytest.raises(StorageFault, match=said):
        list(load_batches(plan, of, MODEL, prompts, MEAN, [0]))
    with pytest.raises(StorageFault, match=said):
        read_plan(of, 0)


def test_a_shard_that_was_made_anew_is_refused(tmp_path, prompts):
    store = finished(tmp_path, some_rows(20))
    of = config(str(tmp_path))
    plan = read_plan(of, 0)
    store.write("sdd", "shard-00000", some_rows(10), SddRow, "another", replace=True)
    with pytest.raises(DatasetError, match=r"shard-00000\.parquet was rewritten"):
        list(load_batches(plan, of, MODEL, prompts, MEAN, [0]))


def test_a_damaged_shard_is_named(tmp_path, prompts):
    finished(tmp_path, some_rows(20))
    of = config(str(tmp_path))
    plan = read_plan(of, 0)
    path = tmp_path / "sdd/shard-00000.parquet"
    path.write_bytes(path.read_bytes()[:-50])
    with pytest.raises(DatasetError, match=r"shard-00000\.parquet is damaged"):
        list(load_batches(plan, of, MODEL, prompts, MEAN, [0]))


def test_memory_is_given_back_beside_the_work_and_not_in_it(dataset, prompts):
    """What a batch of 16 images is shared in takes 7 ms to free, of the 176 that an H100 takes for them."""
    of = config(dataset, processes=1)
    plan, freed_in = read_plan(of, 0), []
    for one in load_batches(plan, of, MODEL, prompts, MEAN, range(plan.batches_per_epoch)):
        weakref.finalize(one.batch.images, lambda: freed_in.append(threading.get_ident()))
    assert len(freed_in) == plan.batches_per_epoch - 1  # the last one is still here
    assert threading.get_ident() not in freed_in
