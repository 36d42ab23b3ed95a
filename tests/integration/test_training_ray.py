"""A training job as it is sent to a Ray cluster that wants a token: `ray job submit … python -m training.launch`."""

import os
import secrets
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import psutil
import pytest
import torch

from model.subject_diffusion import SubjectDiffusion
from tests.factories import finished
from tests.processes import Processes, wait_until
from tests.ray_head import ROOT, ray_head
from tests.small_model import small_config
from tests.unit.training.data.conftest import some_rows
from training.checkpoints.record import read_record
from training.checkpoints.store import read_tensors
from training.monitoring.metrics import read_metrics

pytestmark = pytest.mark.slow
SETTINGS = """
[model]
base = "{folder}/base"
image_encoder = "{folder}/image_encoder"
frozen_precision = "float32"

[training]
out = "{folder}/run"
steps = 10
workers = 2
gpu = false
precision = "float32"
log_every = 1
checkpoint_every = 2

[training.samples]
every = 5
rows = 2
sampling = {{ scheduler = "DDIM", steps = 2 }}

[training.data]
dataset = "{folder}/dataset"
image_px = 32
latent_downsampling = 2
subject_px = 28
batch_size = 4
processes = 0
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """A small base, a dataset of 103 rows, and the settings of a job on them."""
    folder = tmp_path_factory.mktemp("job")
    small_config(folder)
    finished(folder / "dataset", some_rows(103), rows_per_shard=80)
    (folder / "job.toml").write_text(SETTINGS.format(folder=folder))
    return folder


@pytest.fixture(scope="module")
def cluster(tmp_path_factory) -> Iterator[dict[str, str]]:
    token = tmp_path_factory.mktemp("token") / "token"
    token.write_text(secrets.token_hex(32))
    with ray_head(token=token) as env:
        yield env


@pytest.fixture(scope="module")
def processes() -> Iterator[Processes]:
    """Starts processes that end with the module, as the first job is run for several tests."""
    with Processes() as started:
        yield started


@pytest.fixture(scope="module")
def submitted(cluster, folder, processes) -> Callable[..., "subprocess.Popen[str]"]:
    """Sends the job to the cluster, with more words on its command line."""
    return partial(submit, processes, cluster, folder)


def submit(processes: Processes, cluster: dict[str, str], folder: Path, *words: str) -> "subprocess.Popen[str]":
    launch = [sys.executable, "-m", "training.launch", "--config", str(folder / "job.toml"), *words]
    command = [sys.executable, "-m", "ray.scripts.scripts", "job", "submit", "--working-dir", str(ROOT), "--", *launch]
    env = os.environ | cluster
    return processes.start(command, env=env, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def end_of(job: "subprocess.Popen[str]") -> tuple[int, str]:
    said, _ = job.communicate()
    return job.returncode, said


@pytest.fixture(scope="module")
def first(submitted) -> tuple[int, str]:
    return end_of(submitted())


def weights_at(out: Path, step: int) -> dict[str, torch.Tensor]:
    checkpoint = out / "checkpoints" / f"step-{step:08d}"
    net = SubjectDiffusion.from_base(small_config(out.parent))
    weights = {name: torch.zeros_like(w) for name, w in net.named_parameters() if w.requires_grad}
    read_tensors(checkpoint, {"weights": weights})
    return weights


def test_logs_and_exit_code_reach_the_caller(first, folder):
    code, said = first
    assert code == 0, said
    assert "step 10 of 10" in said
    assert "wrote " in said
    record = read_record(folder / "run" / "checkpoints" / "step-00000010")
    assert (record.workers, record.position.batches) == (2, 20)
    assert [line["step"] for line in read_metrics(folder / "run")] == list(range(1, 11))
    assert len(list((folder / "run" / "samples").glob("step-*.png"))) == 2


def test_a_job_that_cannot_run_fails_in_one_line(first, submitted):
    """There are checkpoints, and nobody said to go on from them."""
    code, said = end_of(submitted())
    assert code == 1, "that of `ray job submit`, whatever the job's"
    assert "failed with exit code 2" in said
    assert "--resume latest to continue from it" in said


def test_output_in_the_copy_that_ray_removes_is_refused(submitted):
    code, said = end_of(submitted("--set", "training.out=out/train"))
    assert code != 0
    assert "training.out='out/train' is relative, and this job runs in a copy of your folder" in said


def train_workers() -> list[psutil.Process]:
    named = [(process, process.info["cmdline"] or [""]) for process in psutil.process_iter(["cmdline"])]
    return [process for process, words in named if "RayTrainWorker" in words[0]]


def test_a_worker_that_is_killed_is_replaced_and_nothing_is_different(first, submitted, folder):
    out = folder / "killed"
    job = submitted("--set", f"training.out={out}", "--set", "training.max_failures=2")
    wait_until("step 5", lambda: any(line["step"] >= 5 for line in read_metrics(out)), lambda: job.poll() is None)
    train_workers()[0].send_signal(signal.SIGKILL)
    code, said = end_of(job)
    assert code == 0, said
    assert "from step 0 to 10" in said
    assert any(f"from step {step} to 10" in said for step in (4, 6, 8)), said
    one, other = weights_at(folder / "run", 10), weights_at(out, 10)
    assert [name for name in one if not torch.equal(one[name], other[name])] == []
