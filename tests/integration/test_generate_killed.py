"""`generate --jobs`, killed with `kill -9`: the same command resumes, and its files are those of an undisturbed run."""

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from typer.testing import CliRunner

from flows.cli import app
from flows.generation.generator import DEFAULT_MODEL
from tests.processes import Processes, kill_family, wait_until

TAXI = DEFAULT_MODEL.parents[2] / "docs" / "pictures" / "taxi.png"
SUBJECT = {"label": "vehicle", "images": "taxi.png"}
JOBS = [
    {"prompt": "a vehicle in the snow", "subjects": [SUBJECT], "n": 9},
    {"prompt": "a vehicle on the grass", "subjects": [SUBJECT], "seed": 4, "n": 6},
    {"prompt": "snow", "n": 10},
    {"prompt": "a vehicle by the wall", "subjects": [SUBJECT], "n": 7},
]
IMAGES = sum(int(job["n"]) for job in JOBS)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    shutil.copy(TAXI, tmp_path / "taxi.png")
    (tmp_path / "jobs.jsonl").write_text("\n".join(map(json.dumps, JOBS)))
    return tmp_path


@pytest.fixture
def processes() -> Iterator[Processes]:
    with Processes() as processes:
        yield processes


def generate(folder: Path, out: str) -> tuple[int, str]:
    words = ["--jobs", f"{folder}/jobs.jsonl", "--steps", "2", "--out", f"{folder}/{out}", "--device", "cpu"]
    done = CliRunner().invoke(app, ["generate", *words])
    return done.exit_code, done.stderr


def images(folder: Path) -> list[Path]:
    return [path for path in folder.glob("*.png") if "contact_sheet" not in path.name]


def kill_at(count: int, folder: Path, processes: Processes) -> None:
    """Start the run, and kill it when it has written `count` images."""
    run = processes.fork(generate, folder, "killed")
    wait_until("images", lambda: len(images(folder / "killed")) >= count, run.process.is_alive)
    kill_family(run.process.pid)
    run.process.join()


@pytest.mark.slow
def test_a_run_that_was_killed_is_resumed_with_the_same_files(folder: Path, processes: Processes) -> None:
    """Images are written in chunks of 16: it is killed before the first, inside both, and between them."""
    code, errors = generate(folder, "whole")
    assert (code, f"{IMAGES} images made" in errors) == (0, True), errors
    for count in (0, 3, 16, 19):
        kill_at(count, folder, processes)
    assert len(images(folder / "killed")) < IMAGES
    code, errors = generate(folder, "killed")
    assert (code, "0 of 4 jobs failed" in errors) == (0, True), errors
    whole, killed = (
        {path.name: path.read_bytes() for path in (folder / out).glob("*.png")} for out in ("whole", "killed")
    )
    assert killed.keys() == whole.keys()
    assert [name for name in whole if killed[name] != whole[name]] == []
