"""What a second worker on the processor brings, and whether a worker's memory stays flat. `make bench`.

The small model of `make demo` on 64 px pictures, by Ray Train and gloo. Both are reported with the machine they ran on:
workers share its caches, and make their own batches.
"""

import os
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import psutil
import pytest

from tests.benchmarks.history import Better
from tests.factories import finished
from tests.unit.training.data.conftest import some_rows
from training.monitoring.metrics import read_metrics

pytestmark = pytest.mark.bench
STEPS, LOG_EVERY = 60, 5


@dataclass(frozen=True, slots=True)
class Watched:
    """A run from outside."""

    images_per_s: float
    """The median of its lines of metrics but for the first two."""
    resident_mib: Sequence[int]
    """Of all workers, once a second from the third line of metrics on."""


@pytest.fixture(scope="module")
def dataset(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("scaling")
    finished(folder / "sdd", some_rows(512))
    return folder / "sdd"


def watched(dataset: Path, out: Path, workers: int) -> Watched:
    """The job with so many workers, each on one core."""
    settings = {
        "data.dataset": dataset,
        "data.processes": 0,
        "out": out,
        "workers": workers,
        "steps": STEPS,
        "log_every": LOG_EVERY,
        "checkpoint_every": STEPS,
        "samples.every": 0,
    }
    words = [word for name, value in settings.items() for word in ("--set", f"training.{name}={value}")]
    command = [sys.executable, "-m", "training.launch", "--config", "demo", *words]
    env = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"} | {"OMP_NUM_THREADS": "1"}
    log = out.with_suffix(".log")
    with log.open("w") as said, subprocess.Popen(command, env=env, stdout=said, stderr=said) as job:
        resident = []
        while job.poll() is None:
            if len(read_metrics(out)) > 2:
                resident.append(sum(worker.memory_info().rss for worker in train_workers(job.pid)) >> 20)
            time.sleep(1)
    assert job.returncode == 0, log.read_text()
    speeds = [line["images_per_s"] for line in read_metrics(out)[2:]]
    return Watched(float(np.median(speeds)), [mib for mib in resident if mib])


def train_workers(driver: int) -> list[psutil.Process]:
    below = psutil.Process(driver).children(recursive=True)
    return [process for process in below if "RayTrainWorker" in " ".join(process.cmdline()[:1])]


def test_a_second_worker_and_memory(dataset, tmp_path, record):
    one, two = (watched(dataset, tmp_path / str(workers), workers) for workers in (1, 2))
    ratio = two.images_per_s / one.images_per_s
    print(f"\n{two.images_per_s:.1f} images/s of two workers ÷ {one.images_per_s:.1f} of one = {ratio:.2f}")
    second, last = (float(np.median(part)) for part in np.array_split(one.resident_mib, 4)[1::2])
    print(f"a worker: {second:.0f} MiB in the second quarter, {last:.0f} in the last = {last / second:.3f}")
    record("images of two workers", two.images_per_s, "1/s", better=Better.MORE)
    record("two workers over one", ratio, better=Better.MORE)
    record("memory of a worker", last, "MiB")
    assert last <= 1.03 * second
