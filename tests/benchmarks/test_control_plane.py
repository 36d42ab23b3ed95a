"""Costs of a build that are not its networks'. Results: docs/benchmarks/control-plane.md."""

from functools import partial

import pytest

from labeling.config import Executor, Workers
from labeling.execution.network_job import NetworkJob
from labeling.execution.run import _run_on_ray, run_job
from labeling.steps import chain_stages
from tests.benchmarks.pairs import in_turns, wall_seconds_of
from tests.factories import downloaded, image
from tests.faulty_stage import FaultyConfig, FaultyStage

pytestmark = pytest.mark.bench


@pytest.mark.usefixtures("ray_cluster")
def test_a_finished_stage_on_ray_starts_no_workers(tmp_path):
    """Baseline: a pool of actors whatever is finished. Its workers import neither PyTorch nor weights."""
    shards = [f"shard-{number:05d}" for number in range(8)]
    for number, shard in enumerate(shards):
        downloaded(tmp_path, [image(number * 10 + row, b"") for row in range(1, 5)], shard)
    (step,) = chain_stages([(FaultyStage(FaultyConfig()), "")])
    workers = Workers(count=2)
    job = NetworkJob(step=step, root=str(tmp_path), workers=workers, run="run", torch_threads=1)
    run_job(job, shards, workers, Executor.HERE)
    before, after, _ = in_turns(
        partial(wall_seconds_of, partial(_run_on_ray, job, shards, workers)),
        partial(wall_seconds_of, partial(run_job, job, shards, workers, Executor.RAY)),
    )
    print(f"\na finished stage on Ray, 8 shards: with a pool {before:.2f} s, without {after:.4f} s")
    assert after.median < before.median / 20
