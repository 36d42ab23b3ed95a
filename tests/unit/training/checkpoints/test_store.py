"""Checkpoints are whole or not there, and only continue the run they are of."""

import json
import os
import resource
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import Shard, distribute_tensor

from model.config import BoxEdges
from training.checkpoints.record import RECORD, read_record
from training.checkpoints.store import Checkpoints, RunIdentity, Tensors, check_same_run, read_tensors
from training.config import TrainingJob
from training.distributed.parallel import Worker
from training.errors import CheckpointError
from training.optimization.state import Position

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
    assert checkpoints.restore(path, found, RunIdentity.of(job(), STAMP)) == Position(7, 21)
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
        check_same_run(path, read_record(path), identity)
    return str(error.value)


def test_other_settings_are_refused_by_name(checkpoints, job):
    other = job(optimizer={"learning_rate": 2e-3, "warmup_steps": 5, "beta_2": 0.9}, seed=4)
    said = refused(checkpoints, job, RunIdentity.of(other, STAMP))
    assert "training.optimizer.beta_2 was 0.999, is 0.9" in said
    assert "learning_rate" not in said
    assert "training.seed was 0, is 4" in said
    assert "warmup" not in said


def test_another_model_is_refused_by_name(checkpoints, job):
    other = job().model_copy(update={"model": job().model.model_copy(update={"beta": 0.5})})
    assert "model.beta was 1.0, is 0.5" in refused(checkpoints, job, RunIdentity.of(other, STAMP))


def test_a_setting_newer_than_the_checkpoint_has_its_default(checkpoints, job):
    record = read_record(saved(checkpoints, job, 3))
    model = {name: value for name, value in record.settings["model"].items() if name != "box_edges"}
    older = replace(record, settings={**record.settings, "model": model})
    check_same_run(Path("older"), older, RunIdentity.of(job(), STAMP))
    other = job().model_copy(update={"model": job().model.model_copy(update={"box_edges": BoxEdges.PIXELS})})
    with pytest.raises(CheckpointError, match=r"model\.box_edges was 'exact', is 'pixels'"):
        check_same_run(Path("older"), older, RunIdentity.of(other, STAMP))
    unknown = replace(record, settings={**record.settings, "model": model | {"gone": 1}})
    with pytest.raises(CheckpointError, match=r"model\.box_edges was None, is 'exact'; model\.gone was 1, is None"):
        check_same_run(Path("older"), unknown, RunIdentity.of(job(), STAMP))


def test_another_dataset_is_refused(checkpoints, job):
    assert f"another dataset ({STAMP}, this one is other)" in refused(checkpoints, job, RunIdentity.of(job(), "other"))


def test_what_changes_no_result_or_how_long_it_trains_may_differ(checkpoints, job):
    data = job().training.data.model_copy(update={"dataset": "moved", "processes": 7})
    falling = job().training.optimizer.model_copy(update={"decay_steps": 7})
    other = job(
        steps=99, optimizer=falling, workers=4, accumulation=2, strategy="fsdp2", log_every=1, keep=9, data=data
    )
    path = saved(checkpoints, job, 3)
    check_same_run(path, read_record(path), RunIdentity.of(other, STAMP))


def test_every_setting_that_may_differ_is_a_setting(job):
    from training.checkpoints.store import CHANGEABLE_ON_RESUME, _flatten

    names = [f"{name}." for name, _ in _flatten(job().model_dump(mode="json"))]
    assert [free for free in CHANGEABLE_ON_RESUME if not any(name.startswith(f"{free}.") for name in names)] == []


# Damaged


def flip(file: Path, size: int = 4096) -> None:
    """Invert `size` bytes in the middle of a file, or what it has."""
    content = bytearray(file.read_bytes())
    start = max(0, len(content) // 2 - size // 2)
    content[start : start + size] = bytes(byte ^ 0xFF for byte in content[start : start + size])
    file.write_bytes(content)


def without_checksums(path: Path) -> None:
    """Make the checkpoint one of an earlier version."""
    record = json.loads((path / RECORD).read_text())
    del record["files"], record["sha256"]
    (path / RECORD).write_text(json.dumps(record))


DAMAGES = {
    "flipped weights": (lambda path: flip(path / "__0_0.distcp", 1), "the content of __0_0.distcp has changed"),
    "cut weights": (lambda path: os.truncate(path / "__0_0.distcp", 100), "__0_0.distcp has 100 bytes instead of"),
    "lost weights": (lambda path: (path / "__0_0.distcp").unlink(), r"__0_0.distcp cannot be read \(No such file"),
    "flipped index": (lambda path: flip(path / ".metadata", 1), "the content of .metadata has changed"),
    "another step": (
        lambda path: (path / RECORD).write_text((path / RECORD).read_text().replace('"step": 2', '"step": 1')),
        "record.json is damaged: its content has changed",
    ),
    "empty record": (lambda path: (path / RECORD).write_text("{}"), "record.json is damaged: step: Field required"),
    "no record": (lambda path: (path / RECORD).unlink(), "is not a checkpoint: record.json cannot be read"),
    "garbage": (lambda path: (path / RECORD).write_bytes(b"\xff\xfe"), "record.json is damaged: it is not JSON"),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_checkpoint_is_refused_and_the_last_good_one_named(checkpoints, job, damage):
    good, latest = saved(checkpoints, job, 1), saved(checkpoints, job, 2)
    spoil, said = DAMAGES[damage]
    spoil(latest)
    with pytest.raises(CheckpointError, match=said) as error:
        checkpoints.restore(latest, tensors(), RunIdentity.of(job(), STAMP))
    assert str(error.value).endswith(f". {good} is intact: --resume latest-good continues from it")
    with pytest.raises(CheckpointError, match=said):
        read_tensors(latest, tensors())


def test_the_last_good_one_is_found_and_those_after_it_moved_aside(checkpoints, job, caplog):
    paths = [saved(checkpoints, job, step) for step in (1, 2)]
    checkpoints_of_all = Checkpoints(checkpoints.folder.parent, 9, Worker())
    paths += [saved(checkpoints_of_all, job, step) for step in (3, 4)]
    flip(paths[2] / ".metadata")
    flip(paths[3] / "__0_0.distcp")
    assert checkpoints.latest_good() == paths[1]
    assert checkpoints.all() == paths[:2]
    assert (
        f"__0_0.distcp has changed since it was written (SHA-256 differs); moved to {paths[3]}.damaged-1" in caplog.text
    )
    saved(checkpoints_of_all, job, 4)
    flip(paths[3] / RECORD)
    assert checkpoints.latest_good() == paths[1]
    assert sorted(path.name for path in checkpoints.folder.glob("*.damaged-*")) == [
        "step-00000003.damaged-1",
        "step-00000004.damaged-1",
        "step-00000004.damaged-2",
    ]


def test_where_all_are_damaged_none_is_moved(checkpoints, job):
    assert checkpoints.latest_good() is None
    paths = [saved(checkpoints, job, step) for step in (1, 2)]
    for path in paths:
        flip(path / "__0_0.distcp")
    with pytest.raises(CheckpointError, match=r"step-00000002 is damaged.*No earlier checkpoint is intact"):
        checkpoints.latest_good()
    assert checkpoints.all() == paths


def test_a_checkpoint_elsewhere_is_gone_on_from_by_its_path(checkpoints, job, tmp_path):
    good, latest = saved(checkpoints, job, 1), saved(checkpoints, job, 2)
    flip(latest / "__0_0.distcp")
    other = Checkpoints(tmp_path / "other", keep=2, worker=Worker())
    with pytest.raises(CheckpointError, match=f"{good} is intact: --resume {good} continues from it"):
        other.restore(latest, tensors(), RunIdentity.of(job(), STAMP))


def test_one_of_an_earlier_version_is_read_with_a_warning(checkpoints, job, caplog):
    path = saved(checkpoints, job, 3)
    without_checksums(path)
    found = tensors(0.0)
    assert checkpoints.restore(path, found, RunIdentity.of(job(), STAMP)) == Position(3, 9)
    assert torch.equal(found["weights"]["a.b"], torch.full((2, 3), 3.0))
    assert [text for text in caplog.messages if "checksums" in text] == [
        f"{path} has no checksums, so its files cannot be verified"
    ]
    flip(path / ".metadata")
    with pytest.raises(CheckpointError, match="cannot be read"):
        checkpoints.restore(path, found, RunIdentity.of(job(), STAMP))


@pytest.mark.parametrize(
    ("table", "name", "value"),
    [
        ("training", "accumulation", "x"),
        ("training", "optimizer", []),
        ("training", "optimizer", {"learning_rate": None}),
    ],
)
def test_a_setting_of_the_wrong_kind_is_named(checkpoints, job, table, name, value):
    """In a record of a version that wrote no checksum; a resumed job reads these settings."""
    path = saved(checkpoints, job, 1)
    record = json.loads((path / RECORD).read_text())
    record["settings"][table][name] = value
    (path / RECORD).write_text(json.dumps({key: each for key, each in record.items() if key != "sha256"}))
    with pytest.raises(CheckpointError, match=rf"{RECORD} is damaged: settings\.{table}\.{name}"):
        read_record(path)


@pytest.mark.parametrize("content", [b"{}", b"[]", b"{", b"", b'{"format": 1, "step": "x"}', b"[" * 100_000])
def test_a_damaged_record_of_an_earlier_one_does_not_end_the_job(checkpoints, job, caplog, content):
    """It is neither removed nor counted among those that stay."""
    damaged = saved(checkpoints, job, 1)
    (damaged / RECORD).write_bytes(content)
    for step, loss in enumerate([0.5, 0.1, 0.4, 0.3], start=2):
        saved(checkpoints, job, step, loss)
    assert [path.name[-1] for path in checkpoints.all()] == ["1", "3", "4", "5"]
    assert len([text for text in caplog.messages if f"{damaged / RECORD} is damaged" in text]) == 1


def test_another_format_is_refused_by_its_number(checkpoints, job):
    path = saved(checkpoints, job, 1)
    (path / RECORD).write_text(json.dumps({"format": 2, "steps": 1}))
    with pytest.raises(CheckpointError, match="is of format 2; this version of the code reads 1"):
        read_record(path)


def test_a_folder_that_is_no_checkpoint_is_named(tmp_path):
    with pytest.raises(CheckpointError, match="is not a checkpoint"):
        read_record(tmp_path)


def test_a_checkpoint_of_another_model_cannot_be_read(checkpoints, job):
    path = saved(checkpoints, job, 1)
    with pytest.raises(CheckpointError, match=r"cannot be read.*c\.d"):
        read_tensors(path, {"weights": {"c.d": torch.zeros(1)}})


def test_a_checkpoint_whose_file_is_gone_cannot_be_read(checkpoints, job):
    path = saved(checkpoints, job, 1)
    for file in path.glob("*.distcp"):
        file.unlink()
    without_checksums(path)
    with pytest.raises(CheckpointError, match=r"cannot be read.*No such file"):
        read_tensors(path, tensors())


# In processes of their own


def refused_by_a_full_disk(job: TrainingJob) -> str:
    """Fill the checkpoints' disk between the first and the second: the system refuses files of more than 100 kB."""
    checkpoints = Checkpoints(Path(job.training.out), 2, Worker())
    checkpoints.save({"weights": {"a": torch.ones(1000)}}, job, "s", Position(1, 1), 0.0)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
    with pytest.raises(CheckpointError) as error:
        checkpoints.save({"weights": {"a": torch.ones(100_000)}}, job, "s", Position(2, 2), 0.0)
    return str(error.value)


def test_a_disk_without_room_leaves_the_last_checkpoint(job, processes):
    said = processes.fork(refused_by_a_full_disk, job()).result()
    last = Path(job().training.out) / "checkpoints" / "step-00000001"
    assert "File too large" in said
    assert f"the last one is {last}" in said
    assert list(last.parent.iterdir()) == [last]
    found = {"weights": {"a": torch.zeros(1000)}}
    read_tensors(last, found)
    assert found["weights"]["a"].sum() == 1000


def checkpoints_of_two(job: TrainingJob, meeting: str, rank: int) -> Checkpoints:
    """The checkpoints of a job, in one of its two workers."""
    dist.init_process_group("gloo", f"file://{meeting}", rank=rank, world_size=2)
    return Checkpoints(Path(job.training.out), 2, Worker(rank, 2))


def lost_in_a_checkpoint(job: TrainingJob, meeting: str, rank: int) -> str:
    checkpoints = checkpoints_of_two(job, meeting, rank)
    dist.barrier()
    if rank == 1:
        os._exit(0)
    try:
        checkpoints.save({"weights": {"a": torch.ones(10)}}, job, "s", Position(1, 1), 0.0)
    except (CheckpointError, RuntimeError) as error:
        return type(error).__name__
    return "saved"


def test_a_worker_lost_in_a_checkpoint_is_no_fault_of_the_checkpoint(job, tmp_path, processes):
    """Another attempt may write it, so it must not end as those do that none can."""
    leader, _ = [processes.fork(lost_in_a_checkpoint, job(), f"{tmp_path}/meeting", rank) for rank in range(2)]
    assert leader.result() == "RuntimeError"
    assert Checkpoints(Path(job().training.out), 2, Worker()).all() == []


def found_damage(job: TrainingJob, meeting: str, rank: int) -> tuple[list[str], str, list[float]]:
    """Save twice, damage what the second worker wrote last, and restore; then go back to the first."""
    checkpoints, mesh = checkpoints_of_two(job, meeting, rank), init_device_mesh("cpu", (2,))

    def weights(value: float) -> Tensors:
        return {"weights": {"a": distribute_tensor(torch.full((4, 3), value), mesh, [Shard(0)])}}

    good, latest = (checkpoints.save(weights(float(step)), job, "s", Position(step, step), 0.0) for step in (1, 2))
    dist.barrier()
    if rank == 0:
        flip(latest / "__1_0.distcp", 1)
    dist.barrier()
    found = weights(0.0)
    with pytest.raises(CheckpointError) as error:
        checkpoints.restore(latest, found, RunIdentity.of(job, "s"))
    checkpoints.restore(good, found, RunIdentity.of(job, "s"))
    values = found["weights"]["a"].to_local().unique().tolist()
    dist.destroy_process_group()
    return sorted(read_record(latest).files), str(error.value), values


def test_two_workers_hear_of_damage_in_the_part_of_either(job, tmp_path, processes):
    """One that raised alone would leave the other waiting, so both do, and name the same way to go on."""
    both = [processes.fork(found_damage, job(), f"{tmp_path}/meeting", rank) for rank in range(2)]
    folder = Path(job().training.out) / "checkpoints"
    damage = f"{folder / 'step-00000002'} is damaged: the content of __1_0.distcp has changed since it was written"
    cure = f"{folder / 'step-00000001'} is intact: --resume latest-good continues from it"
    files = [".metadata", "__0_0.distcp", "__1_0.distcp"]
    assert [one.result() for one in both] == [(files, f"{damage} (SHA-256 differs). {cure}", [1.0])] * 2


def test_the_record_says_what_was_run(checkpoints, job):
    record = read_record(saved(checkpoints, job, 5, loss=0.25))
    assert replace(record, settings={}) == replace(record, position=Position(5, 15), loss=0.25, workers=1, settings={})
    assert record.settings == job().model_dump(mode="json")
