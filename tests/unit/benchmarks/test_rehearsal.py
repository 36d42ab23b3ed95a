"""The rehearsal of the whole chain: at small scale all of it, and what it does where a step cannot run."""

import json
import os
import signal
import time
from pathlib import Path

import numpy as np
import psutil
import pytest
from PIL import Image

from tests.benchmarks import rehearsal
from tests.benchmarks.apart import SAMPLE_S, call_apart
from tests.benchmarks.rehearsal import STEPS, main, need_of, rehearse
from tests.benchmarks.rehearsal_report import GIB, Status, read_rows
from tests.benchmarks.rehearsal_settings import Rehearsal, Scale
from tests.processes import PATIENCE_S, Processes, wait_until


@pytest.fixture
def small(tmp_path: Path) -> Rehearsal:
    return Rehearsal(Scale.SMALL, tmp_path, image_px=32, sampling_steps=2)


@pytest.mark.slow  # a minute and a half on two cores
def test_the_small_rehearsal_does_every_step(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    arguments = ["--scale", "small", "--out", str(tmp_path / "out")]
    code = main(arguments)
    assert code == 0, capfd.readouterr().out
    _, rows = read_rows(tmp_path / "out")
    assert [(row.name, row.status) for row in rows] == [(step.name, Status.DONE) for step in STEPS]
    assert all(row.seconds and row.peak_bytes and row.peak_bytes >= (row.anonymous_bytes or 0) > 0 for row in rows)
    notes = {row.name: row.note for row in rows}
    assert notes["captions"].startswith("2 captions")
    assert [notes[name].count("loss") for name in ("train", "resume", "train cached")] == [2, 3, 1]
    for number in (1, 2):
        assert np.ptp(np.asarray(Image.open(tmp_path / "out" / "pictures" / f"{number}.png"))) > 0
    left = {path.name for path in (tmp_path / "out").iterdir()}
    assert not left & {step.temporary for step in STEPS if step.temporary}
    table = (tmp_path / "out" / "rehearsal.md").read_text()
    assert all(step.title in table for step in STEPS)
    assert "| `training.workers` | `24` | `1` |" in table

    capfd.readouterr()
    assert main(arguments) == 0
    assert capfd.readouterr().out.count("done before") == len(STEPS)


def test_a_step_that_the_machine_cannot_hold_is_skipped(small: Rehearsal, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rehearsal, "available_memory", lambda: 3 * GIB)
    full = Rehearsal(Scale.FULL, small.out, image_px=256, sampling_steps=1)
    rows = {row.name: row for row in rehearse(full, "test", work=say_nothing)}
    assert rows["labellers"].status is Status.SKIPPED
    assert rows["labellers"].note == "needs 11.0 GiB of memory, 3.0 are available"
    assert rows["captions"].note == "needs 'labellers', which was skipped"
    assert rows["photographs"].status is Status.DONE
    assert read_rows(small.out)[1] == list(rows.values())


def test_larger_images_need_more_memory(tmp_path: Path) -> None:
    (train,) = (step for step in STEPS if step.name == "train")
    needs = [need_of(train, Rehearsal(Scale.FULL, tmp_path, px, 1)).memory for px in (256, 512)]
    assert needs[1] - needs[0] == pytest.approx(3 * rehearsal.ACTIVATIONS_GIB)


def test_a_failing_step_stops_only_what_needs_it_and_is_tried_again(small: Rehearsal) -> None:
    rows = {row.name: row for row in rehearse(small, "test", work=fail_to_train)}
    failed = {name: row.note for name, row in rows.items() if row.status is Status.FAILED}
    assert failed == {"train": "ValueError: no such luck (logs/train.log)"}
    assert "Traceback" in (small.out / "logs" / "train.log").read_text()
    skipped = {name for name, row in rows.items() if row.status is Status.SKIPPED}
    assert skipped == {"resume", "export", "sample"}
    assert (small.out / "networks").exists(), "what the failed step reads stays"
    assert not (small.out / "labellers").exists()

    again = rehearse(small, "test", work=say_nothing)
    assert {row.status for row in again} == {Status.DONE}
    assert not (small.out / "networks").exists()


def test_a_process_that_is_killed_is_a_row_with_its_signal(tmp_path: Path) -> None:
    outcome = call_apart(kill_itself, (), tmp_path / "log", lambda *_: None, [])
    assert outcome.error == "killed by signal 9, as the system does where memory runs out"
    assert outcome.peak.resident > 0


def test_a_process_ends_with_its_caller(tmp_path: Path, processes: Processes) -> None:
    calling = processes.fork(wait_apart, tmp_path)
    wait_until("the call", (tmp_path / "pid").exists, calling.process.is_alive)
    pid = int((tmp_path / "pid").read_text())
    assert psutil.pid_exists(pid)
    calling.process.kill()
    wait_until("the end of the process", lambda: not psutil.pid_exists(pid))


@pytest.mark.parametrize("more", [["--seed", "1"], ["--fresh"]])
def test_a_folder_of_something_else_is_refused(
    more: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    content = {"settings": {"scale": "small", "image_px": 32, "sampling_steps": 2, "seed": 0}, "rows": []}
    if more != ["--fresh"]:
        (tmp_path / "rehearsal.json").write_text(json.dumps(content))
    (tmp_path / "thesis.txt").write_text("mine")
    with pytest.raises(SystemExit):
        main(["--scale", "small", "--out", str(tmp_path), *more])
    assert "give another --out" in capsys.readouterr().err
    assert (tmp_path / "thesis.txt").exists()


def say_nothing(step: str, rehearsal: Rehearsal) -> str:
    for one in STEPS:
        if one.name == step and one.temporary:
            (rehearsal.out / one.temporary).mkdir(exist_ok=True)
    return ""


def fail_to_train(step: str, rehearsal: Rehearsal) -> str:
    if step == "train":
        raise ValueError("no such luck")
    return say_nothing(step, rehearsal)


def wait_apart(folder: Path) -> None:
    call_apart(wait, (folder,), folder / "log", lambda *_: None, [])


def wait(folder: Path) -> str:
    (folder / "partial").write_text(str(os.getpid()))
    (folder / "partial").rename(folder / "pid")
    time.sleep(PATIENCE_S)
    return ""


def kill_itself() -> str:
    time.sleep(15 * SAMPLE_S)  # its memory is read meanwhile
    os.kill(os.getpid(), signal.SIGKILL)
    return ""
