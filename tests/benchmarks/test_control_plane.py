"""Costs of a build that are not its networks'. Results: docs/benchmarks/control-plane.md."""

import os
import shutil
from collections.abc import Callable
from contextlib import closing
from functools import partial
from pathlib import Path

import pytest

from flows.experiment import DemoExperiment
from flows.status import print_status
from infra.config import load
from labeling.backends.load import backend_modules
from labeling.build import LocalTaskRunner, build
from labeling.config import Executor, Workers
from labeling.execution.network_job import NetworkJob
from labeling.execution.process import StageProcess
from labeling.execution.processes import StageProcesses
from labeling.execution.ray_pools import RayPools
from labeling.execution.run import run_job
from labeling.sdd.file_index import index_of
from labeling.steps import chain_stages, steps_of
from tests.benchmarks.history import Better
from tests.benchmarks.many_shards import finished_dataset
from tests.benchmarks.pairs import cpu_seconds_of, in_turns, wall_seconds_of
from tests.factories import downloaded, image
from tests.faulty_stage import FaultyConfig, FaultyStage

pytestmark = pytest.mark.bench
WORKERS = Workers()


@pytest.mark.usefixtures("ray_cluster")
def test_a_finished_stage_on_ray_starts_no_workers(tmp_path, record):
    """Baseline: a pool of actors whatever is finished. Its workers import neither PyTorch nor weights."""
    shards = [f"shard-{number:05d}" for number in range(8)]
    for number, shard in enumerate(shards):
        downloaded(tmp_path, [image(number * 10 + row, b"") for row in range(1, 5)], shard)
    (step,) = chain_stages([(FaultyStage(FaultyConfig()), "")])
    workers = Workers(count=2)
    job = NetworkJob(step=step, root=str(tmp_path), workers=workers, run="run", torch_threads=1)
    run_job(job, shards, workers, Executor.HERE)

    def with_a_pool() -> None:
        with closing(RayPools()) as pools:
            pools.make(job, shards, workers)

    before, after, _ = in_turns(
        partial(wall_seconds_of, with_a_pool),
        partial(wall_seconds_of, partial(run_job, job, shards, workers, Executor.RAY)),
    )
    print(f"\na finished stage on Ray, 8 shards, with a pool: {before:.2f} s")
    record("a finished stage on Ray, 8 shards", after, "s")
    assert after.median < before.median / 20


SIZES = [int(size) for size in os.environ.get("SHARDS", "1000").split(",")]
"""Shards of the datasets: the figures of docs/benchmarks/ are for SHARDS=1000,10000,50000."""


@pytest.mark.parametrize("shards", SIZES)
def test_status_and_a_finished_run_cost_little_a_shard(tmp_path, shards, record):
    """Baseline: every footer is opened, as without an index. The index is loaded from its file each time."""
    config, steps = finished_dataset(tmp_path / "sdd", shards)
    index = Path(config.root) / "work" / "index"

    def cost(function: Callable[[], object], *, with_index: bool) -> float:
        index_of.cache_clear()
        if not with_index:
            shutil.rmtree(index, ignore_errors=True)
        return cpu_seconds_of(function) * 1000 / shards

    status = partial(print_status, config.root, deep=False)
    rerun = partial(build, config, LocalTaskRunner(), steps)
    for name, function, most in (("status", status, 0.15), ("a finished run", rerun, 1.0)):
        cost(function, with_index=False)
        without, known = (partial(cost, function, with_index=with_index) for with_index in (False, True))
        before, after, _ = in_turns(without, known, pairs=5 if shards < 5000 else 1)
        print(f"\n{name}, {shards} shards, without the index: {before:.3f} CPU ms a shard")
        record(f"{name}, {shards} shards", after, "CPU ms a shard")
        assert after.median <= most


PARTS = 2
"""Parts of the list, in each of which every stage runs."""


def test_networks_start_once_a_run(record):
    """Baseline: an interpreter for each stage and part, which imports what its network needs. Networks of the demo."""
    steps = steps_of(load(DemoExperiment, "demo").labeling)

    def start(processes: StageProcesses) -> None:
        for step in steps:
            process = processes.take(step.stage, WORKERS, torch_threads=1, number=0)
            process.start()
            processes.give_back(process)

    def start_apart() -> None:
        for _ in range(PARTS):
            for step in steps:
                process = StageProcess(step.stage, WORKERS, torch_threads=1, batch_limit=1)
                process.start()
                process.close()
                process.server.close()

    def start_together() -> None:
        processes = StageProcesses(backend_modules([step.stage.config for step in steps]))
        for _ in range(PARTS):
            start(processes)
        processes.close()

    before, after, ratio = in_turns(partial(cpu_seconds_of, start_apart), partial(cpu_seconds_of, start_together))
    print(f"\nstarts of 4 networks in {PARTS} parts, apart: {before:.1f} CPU s")
    record(f"starts of 4 networks in {PARTS} parts", after, "CPU s")
    record("starts apart over together", ratio, better=Better.MORE)
    assert ratio.median >= 2
