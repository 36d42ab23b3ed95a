"""`evaluate` from the command line: images made by the small model, resumed after kills, on Ray, and compared."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from evaluation.benchmarks.benchmark import Benchmark
from evaluation.benchmarks.benchmark_file import write_benchmark
from evaluation.results import read_evaluation
from flows.cli import app
from miniature.world.sprites import cutout
from tests.processes import wait_until
from tests.sprite_benchmark import benchmark, photo_names, things, write_images

ROOT = Path(__file__).parents[2]
SETTINGS = """
[evaluation]
benchmark = "sprites.json"
protocols = ["miniature"]
images_per_case = {images}

[evaluation.sample]
steps = 2
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working folder: photos with transparency, a benchmark's file and settings."""
    write_setting(tmp_path, images=2)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def write_setting(folder: Path, images: int) -> Benchmark:
    for sprite in things(3):
        for number, name in enumerate(photo_names(sprite)):
            path = folder / "photos" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            straight(cutout(sprite, 64)).rotate(15 * (number - 1), expand=True).save(path)
    bench = replace(benchmark(3, images), images_folder=folder / "photos")
    write_benchmark(bench, folder / "sprites.json")
    (folder / "sprites.toml").write_text(SETTINGS.format(images=images))
    return bench


def straight(premultiplied: "np.ndarray") -> Image.Image:
    """Undo the multiplication by alpha."""
    alpha = np.maximum(premultiplied[..., 3:].astype(np.float32), 1)
    colour = np.clip(premultiplied[..., :3] * 255.0 / alpha, 0, 255)
    return Image.fromarray(np.dstack([colour, premultiplied[..., 3]]).astype(np.uint8))


def run(*words: str) -> tuple[int, str, str]:
    done = CliRunner().invoke(app, ["evaluate", *words])
    assert done.exception is None or isinstance(done.exception, SystemExit), done.exception
    return done.exit_code, done.stdout, done.stderr


def made(folder: Path) -> dict[str, int]:
    return {path.relative_to(folder).as_posix(): path.stat().st_mtime_ns for path in folder.rglob("*.png")}


def test_the_model_makes_the_images_once_and_they_are_scored(folder: Path) -> None:
    words = ("--config", "sprites.toml", "--device", "cpu", "--out", "out", "--cache", "cache")
    code, printed, errors = run(*words)
    assert code == 0, errors
    assert "| small model | this evaluation |" in printed
    images = made(folder / "out" / "images")
    assert len(images) == 5 * 2
    assert "swan/00/0.png" in images
    evaluation = read_evaluation(folder / "out" / "miniature")
    assert evaluation.header.weights.keys() == {"Miniature embedder"}
    reports = [(folder / "out" / name).read_bytes() for name in ("report.md", "report.html", "scores.json")]
    assert run(*words)[0] == 0
    assert made(folder / "out" / "images") == images
    assert [(folder / "out" / name).read_bytes() for name in ("report.md", "report.html", "scores.json")] == reports
    code, _, errors = run(*words, "--set", "evaluation.sample.steps=3")
    assert code == 2
    assert "was made with other settings or another model: give another --out" in errors


def test_each_subject_that_cannot_be_cut_out_is_named_and_no_image_is_an_error(folder: Path) -> None:
    for photo in folder.glob("photos/*/*.png"):
        Image.new("RGB", (96, 96), "white").save(photo)
    code, _, errors = run("--config", "sprites.toml", "--device", "cpu", "--out", "out", "--set", "evaluation.cases=2")
    assert code == 2
    assert errors.count("the detector found no") == 2
    assert errors.splitlines()[-1] == "error: no case gave an image: mend what is named above"
    assert not (folder / "out" / "report.html").exists()


def test_a_sweep_scores_each_setting_beside_the_base(folder: Path) -> None:
    sweep = ("--set", "evaluation.sweep.strength=[0.0]", "--set", "evaluation.cases=2")
    code, printed, errors = run(
        "--config", "sprites.toml", "--device", "cpu", "--out", "out", "--cache", "cache", *sweep
    )
    assert code == 0, errors
    assert "small model, strength=0.0 minus small model, base, subject by subject" in printed
    assert (folder / "out" / "strength=0.0" / "report.html").exists()
    assert {row["method"] for row in json.loads((folder / "out" / "scores.json").read_text())} == {
        "small model, base",
        "small model, strength=0.0",
    }


def test_two_folders_of_images_are_compared(folder: Path) -> None:
    bench = benchmark(3, 2)
    write_images(bench, folder / "good")
    shutil.copytree(folder / "good", folder / "noise")
    for path in (folder / "noise").rglob("*.png"):
        Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)).save(path)
    for name in ("good", "noise"):
        words = ("--images", name, "--out", f"out/{name}", "--cache", "cache")
        code, _, errors = run("--config", "sprites.toml", *words)
        assert code == 0, errors
    code, printed, errors = run("compare", "out/noise", "out/good", "--out", "out/compared")
    assert code == 0, errors
    assert "good minus noise, subject by subject" in printed
    code, _, errors = run("compare", "out/noise", "photos")
    assert code == 2
    assert "photos holds no PROTOCOL/scores.parquet" in errors


def test_errors_name_the_cure(folder: Path) -> None:
    common = ("--config", "sprites.toml", "--out", "out", "--cache", "cache")
    (folder / "images" / "swan" / "00").mkdir(parents=True)
    code, _, errors = run(*common, "--images", "images")
    assert code == 2
    assert "10 of 10 images of sprites cannot be scored: swan/00/0 (missing)" in errors
    code, _, errors = run(*common, "--images", "images", "--imitate", "ono")
    assert code == 2
    assert "--imitate ono: choose one of dreambooth, kosmos-g, uno" in errors
    code, _, errors = run(*common, "--set", "evaluation.benchmark=dreambenc")
    assert code == 2
    assert "did you mean dreambench?" in errors


def test_self_test_of_an_encoder_without_a_published_value(folder: Path) -> None:
    code, printed, _ = run("--config", "sprites.toml", "--self-test", "--cache", "cache")
    assert code == 0
    assert "Miniature embedder: " in printed
    assert "it is neither DINO nor CLIP" in printed


def test_self_test_fails_where_the_photos_are_not_those_of_the_benchmark(folder: Path) -> None:
    """The embedder is no DINO; the rule is that of `flows.evaluation.self_test`."""
    from flows.evaluation.self_test import SelfTest

    assert SelfTest("DINO", 0.78, 0.7, 0.774).passed
    assert SelfTest("DINO", 0.76, 0.774, 0.774).passed is False
    assert "FAILED" in SelfTest("DINO", 0.76, 0.774, 0.774).line


@pytest.mark.slow
def test_a_run_that_was_killed_anywhere_gives_the_same_reports(tmp_path: Path) -> None:
    """Paths are relative, so the files of two working folders can be compared byte by byte."""
    undisturbed, killed = tmp_path / "undisturbed", tmp_path / "killed"
    for folder in (undisturbed, killed):
        write_setting(folder, images=2)
    words = ("--config", "sprites.toml", "--device", "cpu", "--batch", "1", "--out", "out", "--cache", "cache")
    assert start(undisturbed, *words).wait() == 0
    points: list[Callable[[], bool]] = [
        lambda: len(list(killed.glob("out/images/**/0.png"))) > 0,
        lambda: len(list(killed.glob("cache/*/*.parquet"))) > 0,
        lambda: (killed / "out" / "miniature" / "scores.parquet").exists(),
        lambda: (killed / "out" / "report.md").exists(),
    ]
    kills = 0
    for reached in points:
        kills += kill_at(reached, start(killed, *words))
    assert kills >= 3
    assert start(killed, *words).wait() == 0
    for name in ("report.md", "report.html", "scores.json", "miniature/scores.parquet"):
        assert (killed / "out" / name).read_bytes() == (undisturbed / "out" / name).read_bytes(), name


def kill_at(reached: Callable[[], bool], process: "subprocess.Popen[bytes]") -> bool:
    """Kill the process at a point, and return whether it still ran."""
    wait_until("the point of the kill", lambda: reached() or process.poll() is not None)
    process.kill()
    return process.wait() == -9


def start(folder: Path, *words: str) -> "subprocess.Popen[bytes]":
    command = [sys.executable, "-m", "flows.cli", "evaluate", *words]
    env = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(command, cwd=folder, env=env, stdout=subprocess.DEVNULL)


@pytest.mark.slow
@pytest.mark.usefixtures("ray_cluster")
def test_workers_on_ray_give_the_scores_of_this_process(folder: Path) -> None:
    common = ("--config", "sprites.toml", "--device", "cpu")
    assert run(*common, "--out", "here", "--cache", "cache-here")[0] == 0
    ray = ("--executor", "ray", "--workers", "2")
    code, _, errors = run(*common, "--images", "here/images", "--out", "there", "--cache", "cache-ray", *ray)
    assert code == 0, errors
    here, there = (read_evaluation(folder / name / "miniature") for name in ("here", "there"))
    assert [score.value for score in there.scores] == pytest.approx([score.value for score in here.scores], abs=1e-5)
