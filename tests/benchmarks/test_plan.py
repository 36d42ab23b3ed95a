"""The plan of a build of the miniature world against the build. Results: docs/benchmarks/dataset.md."""

from pathlib import Path

import pytest

from flows.experiment import DemoExperiment
from infra.config import load
from infra.storage import storage_path
from labeling.build import LocalTaskRunner, build
from labeling.config import LabelingConfig
from labeling.execution.record import read_runs
from labeling.plan.estimate import estimate
from labeling.plan.measured import measure
from labeling.plan.pilot import run_pilot
from miniature.world.names import taught_scenes
from miniature.world.serve import WorldConfig, world_server, write_world
from tests.benchmarks.history import Kind, Recorder

pytestmark = pytest.mark.bench
URLS, PILOT = 1000, 100
ERROR = 0.15


def test_the_plan_is_within_15_percent_of_the_cpu_seconds_of_the_build(tmp_path: Path, record: Recorder) -> None:
    urls = write_world(tmp_path / "world", URLS, seed=3, config=WorldConfig(port=0, scenes=taught_scenes()))
    settings = (f'labeling.root="{tmp_path / "sdd"}"', f'labeling.urls="{urls}"')
    config = load(DemoExperiment, "demo", settings).labeling
    with world_server(tmp_path / "world"):
        planned = estimate(measure(run_pilot(config, PILOT, build_here)), config, URLS)
        build_here(config)
    (run,) = read_runs(storage_path(config.root))
    print(f"\nplanned {planned.cpu_s.value:.1f} +- {planned.cpu_s.half_width:.1f} CPU-seconds, used {run['cpu_s']:.1f}")
    record("planned CPU-seconds over those used", planned.cpu_s.value / run["cpu_s"], kind=Kind.TOLERANCE)
    assert abs(planned.cpu_s.value / run["cpu_s"] - 1) <= ERROR
    size = sum(path.stat().st_size for path in Path(config.root).glob("*/*.parquet"))
    print(f"planned {planned.storage.value / 1e6:.1f} MB, written {size / 1e6:.1f} MB")


def build_here(config: LabelingConfig) -> None:
    build(config, LocalTaskRunner())
