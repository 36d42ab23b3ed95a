"""Sums of times over shards, and what a run records of them."""

import pytest

from infra.storage import storage_path
from labeling.config import LabelingConfig
from labeling.execution.record import read_runs, record_run
from labeling.execution.report import ShardReport
from labeling.execution.usage import StageUsage, cpu_seconds


def made(images: int, seconds: float, cpu_s: float, **others) -> ShardReport:
    return ShardReport(stage="captions", shard="s", counts={"kept": images}, seconds=seconds, cpu_s=cpu_s, **others)


def test_starts_are_apart_and_files_that_existed_do_not_count():
    usage = StageUsage()
    usage.add(made(10, 7.0, 3.0, start_s=2.0, start_cpu_s=1.5, starts=1, on_gpu=True))
    usage.add(made(20, 9.0, 5.0))
    usage.add(made(40, 9.0, 5.0, reused=True))
    assert (usage.shards, usage.images, usage.starts) == (2, 30, 1)
    assert (usage.work_s, usage.start_s, usage.cpu_s, usage.start_cpu_s) == (14.0, 2.0, 8.0, 1.5)
    assert usage.gpu_s == 7.0
    assert usage.images_squared == 10**2 + 20**2
    assert usage.images_work == 10 * 5.0 + 20 * 9.0
    assert usage.cpu_squared == 3.0**2 + 5.0**2


def test_a_record_holds_the_use_of_each_stage_and_the_cpu_seconds_of_the_run(tmp_path):
    root = storage_path(tmp_path)
    with record_run(LabelingConfig(root=str(root)), [], shards=1) as record:
        record.add("captions", [made(10, 2.0, 1.0)])
        record.add("captions", [made(20, 3.0, 1.0)])
        begin = cpu_seconds()
        while cpu_seconds() < begin + 0.05:
            pass
    (run,) = read_runs(root)
    assert StageUsage.of(run["usage"]["captions"] | {"of_a_later_version": 1.0}) == record.usage["captions"]
    assert 0.05 <= run["cpu_s"] < 60
    assert run["usage"]["captions"]["work_s"] == pytest.approx(5.0)
