"""`generate` with more than one process or model: workers on Ray, and the networks that cut subjects out."""

import json
import re
import shlex
import shutil
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from flows.cli import app
from flows.generation.errors import GenerationError
from flows.generation.generator import DEFAULT_MODEL, Generator
from flows.generation.jobs import TaskRunner
from flows.generation.png import read_png
from flows.generation.ray_pool import run_on_ray
from miniature.world.names import taught_scenes
from miniature.world.scenes import compose

ONE = taught_scenes().model_copy(update={"subjects": (1, 1), "box_share": (0.15, 0.4)})


def run(*words: str) -> tuple[int, list[str], str]:
    done = CliRunner().invoke(app, ["generate", "--device", "cpu", *words])
    assert done.exception is None or isinstance(done.exception, SystemExit), done.exception
    return done.exit_code, done.stdout.splitlines(), done.stderr


@pytest.mark.slow
@pytest.mark.usefixtures("ray_cluster")
def test_jobs_on_ray_give_the_images_of_this_process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    shutil.copy(DEFAULT_MODEL.parents[2] / "docs" / "pictures" / "taxi.png", "taxi.png")
    taxi = {"label": "vehicle", "images": "taxi.png"}
    jobs = [
        {"prompt": "a vehicle", "subjects": [taxi], "n": 3},
        {"prompt": "snow", "height": 65},
        {"prompt": "snow", "subjects": [{"label": "cat", "images": "cat.png"}]},
        {"prompt": "a vehicle on grass", "subjects": [taxi], "seed": 7},
    ]
    Path("jobs.jsonl").write_text("\n".join(map(json.dumps, jobs)))
    words = ("--jobs", "jobs.jsonl", "--steps", "2", "--batch", "2")
    code, here, _ = run(*words, "--out", "here")
    assert (code, len(here)) == (1, 4)
    Path("ray").mkdir()
    shutil.copy(here[0], "ray")
    code, there, errors = run(*words, "--out", "ray", "--executor", "ray", "--workers", "2")
    assert code == 1
    assert "3 images made, 1 existed, 2 of 4 jobs failed" in errors
    assert "error: jobs.jsonl:2: height=65: give a multiple of 16" in errors
    assert "error: jobs.jsonl:3: cat.png is missing" in errors
    assert sorted(Path(file).name for file in there) == sorted(Path(file).name for file in here)
    for file in here:
        (a, _), (b, _) = read_png(Path(file)), read_png(Path("ray") / Path(file).name)
        assert np.abs(np.asarray(a, np.int16) - np.asarray(b, np.int16)).max() <= 1
    assert Path("ray/contact_sheet.png").exists()


def load_from(folder: Path) -> TaskRunner:
    return TaskRunner(Generator(folder, device="cpu"))


@pytest.mark.slow
@pytest.mark.usefixtures("ray_cluster")
def test_a_model_that_does_not_load_on_ray_is_named(tmp_path: Path) -> None:
    with pytest.raises(GenerationError, match=f"{tmp_path}/none is no folder"):
        list(run_on_ray(partial(load_from, tmp_path / "none"), iter([]), set(), workers=1, gpus=False))


def test_a_subject_is_cut_out_of_an_opaque_picture(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)  # the networks are found in the checkout, not here
    scene = compose((20262, 0), ONE)
    (subject,) = scene.subjects
    label = subject.sprite.class_word
    Image.fromarray(scene.image).save("scene.png")
    code, (file,), errors = run("--subject", f"scene.png:{label}", "--prompt", f"a {label}", "--steps", "2")
    assert code == 0, errors
    (cutout,) = Path("out/images/cutouts").glob("scene-????????????.png")
    (preview,) = Path("out/images/cutouts").glob("scene-*.preview.png")
    assert f"scene.png: cut out {label!r} " in errors
    assert str(cutout) in errors
    assert str(preview) in errors
    assert "know only the drawn things" in errors
    outline = np.asarray(Image.open(cutout).getchannel("A")) > 0
    assert (outline & subject.mask).sum() / (outline | subject.mask).sum() > 0.75
    code, again, errors = run("--subject", f"scene.png:{label}", "--prompt", f"a {label}", "--steps", "2")
    assert (code, again) == (0, [file])
    assert "was cut out before" in errors
    code, _, errors = run("--from", file, "--subject", "scene.png", "--out", "again")
    assert code == 0, errors
    assert "identical" in errors


def test_a_subject_that_is_not_found_is_named_with_the_command_that_cuts_it_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Image.fromarray(compose((20262, 0), ONE).image).save("my scene.png")
    code, files, errors = run("--subject", "my scene.png:tall unicorn", "--prompt", "x", "--steps", "1")
    assert (code, files) == (2, [])
    assert "my scene.png: the detector found no 'tall unicorn'" in errors
    (command,) = re.findall("`(subject-diffusion cutout .*?)`", errors)
    done = CliRunner().invoke(app, shlex.split(command)[1:])
    assert done.exit_code == 0, done.output
    (subject,) = re.findall("`--subject (.*?)`", errors)
    code, files, errors = run("--subject", *shlex.split(subject), "--prompt", "x", "--steps", "1")
    assert (code, len(files)) == (0, 1), errors
