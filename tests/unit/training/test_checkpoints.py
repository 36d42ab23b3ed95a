"""Checkpoints are whole or not there, and only continue the run they are of."""

import os
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from training.checkpoints import Checkpoints, Identity, read_tensors, record_of, refuse_another
from training.errors import CheckpointError
from training.parallel import Worker
from training.state import Position

STAMP = "made-up"


@pytest.fixture
def checkpoints(tmp_path):
    return Checkpoints(tmp_path / "run", keep=2, worker=Worker())


def tensors(value: float = 1.0):
    return {"weights": {"a.b": torch.full((2, 3), value)}, "ema": {"a.b": torch.full((2, 3), -value)}}


def saved(checkpoints, job, step, loss=1.0):
    return checkpoints.save(tensors(step), job(), STAMP, Position(step, 3 * step), loss)


def test_gives_back_what_it_took(checkpoints, job):
    path = saved(checkpoints, job, 7)
    found = tensors(0.0)
    assert checkpoints.restore(path, found, Identity.of(job(), STAMP)) == Position(7, 21)
    assert torch.equal(found["weights"]["a.b"], torch.full((2, 3), 7.0))
    assert torch.equal(found["ema"]["a.b"], torch.full((2, 3), -7.0))


def test_the_last_ones_stay_and_the_best(checkpoints, job):
    for step, loss in enumerate([0.5, 0.1, 0.4, 0.3, 0.2]):
        saved(checkpoints, job, step, loss)
    assert [path.name for path in checkpoints.all()] == ["step-00000001", "step-00000003", "step-00000004"]
    assert checkpoints.latest().name == "step-00000004"
    assert [p.name for p in checkpoints.folder.iterdir() if p.name.startswith(".")] == []


def test_a_copy_beside_them_is_neither_removed_nor_counted(checkpoints, job):
    kept = shutil.copytree(saved(checkpoints, job, 0), checkpoints.folder / "step-00000009-kept")
    for step in (1, 2, 3):
        saved(checkpoints, job, step)
    assert kept.is_dir()
    assert [path.name for path in checkpoints.all()] == ["step-00000000", "step-00000002", "step-00000003"]
    assert checkpoints.latest().name == "step-00000003"


def test_what_a_killed_run_left_is_no_checkpoint_and_is_swept(checkpoints, job):
    last = saved(checkpoints, job, 1)
    for name in (".step-00000002.partial", ".step-00000000.gone"):
        (checkpoints.folder / name).mkdir()
    assert checkpoints.latest() == last
    checkpoints.sweep()
    assert list(checkpoints.folder.iterdir()) == [last]


def refused(checkpoints, job, identity):
    path = saved(checkpoints, job, 3)
    with pytest.raises(CheckpointError) as error:
        refuse_another(path, record_of(path), identity)
    return str(error.value)


def test_other_settings_are_refused_by_name(checkpoints, job):
    other = job(optimizer={"learning_rate": 2e-3, "warmup_steps": 5, "beta_2": 0.9}, seed=4)
    said = refused(checkpoints, job, Identity.of(other, STAMP))
    assert "training.optimizer.beta_2 was 0.999, is 0.9" in said
    assert "learning_rate" not in said
    assert "training.seed was 0, is 4" in said
    assert "warmup" not in said


def test_another_model_is_refused_by_name(checkpoints, job):
    other = job().model_copy(update={"model": job().model.model_copy(update={"beta": 0.5})})
    assert "model.beta was 1.0, is 0.5" in refused(checkpoints, job, Identity.of(other, STAMP))


def test_another_dataset_is_refused(checkpoints, job):
    assert f"another dataset ({STAMP}, this one is other)" in refused(checkpoints, job, Identity.of(job(), "other"))


def test_what_changes_no_result_or_how_long_it_trains_may_differ(checkpoints, job):
    data = job().training.data.model_copy(update={"dataset": "moved", "processes": 7})
    falling = job().training.optimizer.model_copy(update={"decay_steps": 7})
    other = job(
        steps=99, optimizer=falling, workers=4, accumulation=2, strategy="fsdp2", log_every=1, keep=9, data=data
    )
    path = saved(checkpoints, job, 3)
    refuse_another(path, record_of(path), Identity.of(other, STAMP))


def test_every_setting_that_may_differ_is_a_setting(job):
    from training.checkpoints import FREE, _flat

    names = [f"{name}." for name, _ in _flat(job().model_dump(mode="json"))]
    assert [free for free in FREE if not any(name.startswith(f"{free}.") for name in names)] == []


def test_a_folder_that_is_no_checkpoint_is_named(tmp_path):
    with pytest.raises(CheckpointError, match="is no checkpoint"):
        record_of(tmp_path)


def test_a_checkpoint_of_another_model_cannot_be_read(checkpoints, job):
    path = saved(checkpoints, job, 1)
    with pytest.raises(CheckpointError, match=r"cannot be read.*c\.d"):
        read_tensors(path, {"weights": {"c.d": torch.zeros(1)}})


def test_a_checkpoint_whose_file_is_gone_cannot_be_read(checkpoints, job):
    path = saved(checkpoints, job, 1)
    for file in path.glob("*.distcp"):
        file.unlink()
    with pytest.raises(CheckpointError, match=r"cannot be read.*No such file"):
        read_tensors(path, tensors())


FULL_DISK = """
import resource, sys
from pathlib import Path
import torch
from infra.config import load
from training.checkpoints import Checkpoints
from training.config import TrainingJob
from training.errors import CheckpointError
from training.parallel import Worker
from training.state import Position

job = TrainingJob.model_validate_json(sys.argv[1])
checkpoints = Checkpoints(Path(job.training.out), 2, Worker())
checkpoints.save({"weights": {"a": torch.ones(1000)}}, job, "s", Position(1, 1), 0.0)
resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
try:
    checkpoints.save({"weights": {"a": torch.ones(100_000)}}, job, "s", Position(2, 2), 0.0)
except CheckpointError as error:
    print(error)
    sys.exit(2)
"""


def test_a_disk_without_room_leaves_the_last_checkpoint(job, tmp_path):
    """The system refuses files of more than 100 kB, in a process of its own."""
    command = [sys.executable, "-c", FULL_DISK, job().model_dump_json()]
    done = subprocess.run(command, capture_output=True, text=True, env=os.environ)
    assert done.returncode == 2, done.stderr
    last = Path(job().training.out) / "checkpoints" / "step-00000001"
    assert "File too large" in done.stdout
    assert f"the last one is {last}" in done.stdout
    assert list(last.parent.iterdir()) == [last]
    found = {"weights": {"a": torch.zeros(1000)}}
    read_tensors(last, found)
    assert found["weights"]["a"].sum() == 1000


LOST_WORKER = """
import os, sys
from pathlib import Path
import torch
import torch.distributed as dist
from training.checkpoints import Checkpoints
from training.config import TrainingJob
from training.errors import CheckpointError
from training.parallel import Worker
from training.state import Position

job, rank = TrainingJob.model_validate_json(sys.argv[1]), int(sys.argv[2])
dist.init_process_group("gloo", init_method=f"file://{sys.argv[3]}", rank=rank, world_size=2)
dist.barrier()
if rank == 1:
    os._exit(0)
try:
    checkpoints = Checkpoints(Path(job.training.out), 2, Worker(rank, 2))
    checkpoints.save({"weights": {"a": torch.ones(10)}}, job, "s", Position(1, 1), 0.0)
except CheckpointError as error:
    print(error)
    sys.exit(2)
except RuntimeError:
    sys.exit(3)
"""


def test_a_worker_lost_in_a_checkpoint_is_no_fault_of_the_checkpoint(job, tmp_path):
    """Another attempt may write it, so it must not end as those do that none can."""
    command = [sys.executable, "-c", LOST_WORKER, job().model_dump_json()]
    meeting = str(tmp_path / "meeting")
    workers = [subprocess.Popen([*command, str(rank), meeting], env=os.environ) for rank in range(2)]
    assert [worker.wait(timeout=120) for worker in workers] == [3, 0]
    assert Checkpoints(Path(job().training.out), 2, Worker()).all() == []


def test_the_record_says_what_was_run(checkpoints, job):
    record = record_of(saved(checkpoints, job, 5, loss=0.25))
    assert replace(record, settings={}) == replace(record, position=Position(5, 15), loss=0.25, workers=1, settings={})
    assert record.settings == job().model_dump(mode="json")
