"""The verb `generate` with the committed model: what it makes, makes again, leaves alone and refuses."""

import json
import os
import resource
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image
from typer.testing import CliRunner

from flows.cli import app
from flows.generation.generator import DEFAULT_MODEL, Generator
from flows.generation.job import parse_job
from flows.generation.png import read_png
from tests.shipped_model import MAX_SUBJECTS

TAXI = DEFAULT_MODEL.parents[2] / "docs" / "pictures" / "taxi.png"
SNOW = ("--prompt", "a vehicle in the snow", "--steps", "2")
NO_CUTTER = '[labeling.detect]\ncheckpoint = "no/such/dino"\n[labeling.segment]\ncheckpoint = "no/such/sam"\n'


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Working folder with a subject and some files that are none."""
    monkeypatch.chdir(tmp_path)
    shutil.copy(TAXI, "taxi.png")
    Image.new("RGBA", (8, 8)).save("nothing.png")
    Image.new("RGB", (8, 8), "red").save("opaque.png")
    Image.new("L", (8, 8), 255).save("mask.png")
    Path("text.png").write_text("no image")
    Path("no_cutter.toml").write_text(NO_CUTTER)
    return tmp_path


def run(*words: str) -> tuple[int, list[str], str]:
    """Return exit code, lines of standard output, and standard error."""
    done = CliRunner().invoke(app, ["generate", "--device", "cpu", *words])
    assert done.exception is None or isinstance(done.exception, SystemExit), done.exception
    return done.exit_code, done.stdout.splitlines(), done.stderr


def made(*words: str) -> list[Path]:
    """Return the images that a command makes."""
    code, files, errors = run(*words)
    assert code == 0, errors
    return [Path(file) for file in files]


def taxi(*words: str) -> list[Path]:
    return made("--subject", "taxi.png:vehicle", *SNOW, *words)


def pixels(path: Path) -> NDArray[np.int16]:
    return np.asarray(read_png(path)[0]).astype(np.int16)


def test_an_image_is_the_same_from_python_and_from_the_command_line() -> None:
    job = parse_job(
        {
            "prompt": "a vehicle in the snow",
            "subjects": [{"label": "vehicle", "images": "taxi.png", "box": [0.1, 0.2, 0.9, 0.8]}],
            "steps": 2,
            "seed": 3,
            "n": 2,
            "interpolation": 0.2,
            "negative_prompt": "grass",
        },
        "job",
    )
    images = Generator(device="cpu").generate(job, Path())
    words = ("--box", "0.1,0.2,0.9,0.8", "--interpolation", "0.2", "--negative", "grass")
    together = taxi(*words, "--seed", "3", "--n", "2")
    (alone,) = taxi(*words, "--seed", "4", "--out", "alone")
    assert [path.name for path in together][1] == alone.name
    for path, image in zip(together, images, strict=True):
        assert np.abs(pixels(path) - np.asarray(image.image)).max() == 0
        assert read_png(path)[1].fingerprint() == image.provenance.fingerprint()
    assert np.abs(pixels(alone) - pixels(together[1])).max() <= 1


def test_an_image_is_made_again_from_its_file() -> None:
    _, second = taxi("--n", "2")
    Path("renamed.png").write_bytes(TAXI.read_bytes())
    code, (again,), errors = run(
        "--from", str(second), "--subject", "renamed.png", "--out", "again", "--embed-subjects"
    )
    assert (code, Path(again).name) == (0, second.name)
    assert f"identical to {second}" in errors
    assert (pixels(Path(again)) == pixels(second)).all()
    code, (third,), errors = run("--from", again, "--out", "third")
    assert code == 0
    assert (pixels(Path(third)) == pixels(second)).all()
    assert not read_png(Path(third))[1].job.subjects[0].images[0].data


def test_an_image_that_was_edited_is_reported_as_another() -> None:
    (path,) = taxi()
    with Image.open(path) as image:
        image.load()
        edited = image.point(lambda value: 255 - value)
        info = image.text["subject-diffusion"]  # type: ignore[attr-defined]
    from PIL.PngImagePlugin import PngInfo

    chunk = PngInfo()
    chunk.add_itxt("subject-diffusion", info)
    edited.save("edited.png", pnginfo=chunk)
    code, _, errors = run("--from", "edited.png", "--subject", "taxi.png", "--out", "again")
    assert code == 1
    assert "differs from edited.png by up to" in errors


def test_another_subject_or_model_is_refused_with_the_hashes(tmp_path: Path) -> None:
    (path,) = taxi()
    wanted = read_png(path)[1]
    (needed,) = wanted.job.subjects[0].images
    code, _, errors = run("--from", str(path))
    assert code == 2
    assert f"does not embed taxi.png (SHA-256 {needed.sha256}): give the file with --subject" in errors
    code, _, errors = run("--from", str(path), "--subject", "nothing.png:vehicle")
    assert code == 2
    assert f"(SHA-256 {needed.sha256})" in errors
    assert "given: nothing.png (SHA-256 " in errors
    other = tmp_path / "other"
    shutil.copytree(DEFAULT_MODEL, other)
    settings = json.loads((other / "model_index.json").read_text())
    (other / "model_index.json").write_text(json.dumps(settings | {"num_inference_steps": 3}))
    code, _, errors = run("--from", str(path), "--subject", "taxi.png", "--model", str(other))
    assert code == 2
    assert f"another model, subject_diffusion with the SHA-256 {wanted.model.sha256}" in errors
    assert "--model; other has " in errors


def test_more_images_of_a_prompt_do_not_make_the_first_again() -> None:
    (first,) = taxi()
    written = first.stat().st_mtime_ns
    three = taxi("--n", "3")
    assert three[0] == first
    assert first.stat().st_mtime_ns == written
    assert len({path.name for path in three}) == 3
    assert sorted(path.name for path in Path("out/images").iterdir()) == sorted(
        ["contact_sheet.png", *(path.name for path in three)]
    )
    with Image.open("out/images/contact_sheet.png") as sheet:
        assert sheet.width > 4 * 192
    taxi("--seed", "9")
    assert len(list(Path("out/images").glob("contact_sheet-*.png"))) == 1  # the first sheet is kept


def test_quick_means_few_steps_of_dpm_solver() -> None:
    words = ("--subject", "taxi.png:vehicle", "--prompt", "a vehicle", "--quick")
    job = read_png(made(*words)[0])[1].job
    assert (job.scheduler, job.steps) == ("DPMSolverMultistep", 20)
    job = read_png(made(*words, "--steps", "3")[0])[1].job
    assert (job.scheduler, job.steps) == ("DPMSolverMultistep", 3)


def test_a_subject_is_put_into_a_photo() -> None:
    Image.new("RGB", (90, 60), "white").save("room.jpg")
    (path,) = taxi("--into", "room.jpg", "--box", "0.2,0.2,0.7,0.8", "--feather", "1")
    changed = (pixels(path) != 255).any(axis=2)
    assert changed.shape == (60, 90)
    assert changed[15:45, 25:55].mean() > 0.5
    assert not changed[:, :16].any()
    code, _, errors = run("--from", str(path), "--subject", "taxi.png", "--into", "room.jpg", "--out", "again")
    assert code == 0
    assert "identical" in errors


JOBS = [
    {"prompt": "a vehicle", "subjects": [{"label": "vehicle", "images": "taxi.png"}], "n": 2},
    {"prompt": "snow", "seed": 5},
]


def write_jobs(*lines: object) -> None:
    Path("jobs").mkdir(exist_ok=True)
    shutil.copy(TAXI, "jobs/taxi.png")
    texts = [line if isinstance(line, str) else json.dumps(line) for line in lines]
    Path("jobs/jobs.jsonl").write_text("\n".join(texts) + "\n")


def run_jobs(*words: str) -> tuple[int, list[str], str]:
    return run("--jobs", "jobs/jobs.jsonl", "--steps", "2", *words)


def test_jobs_are_resumed() -> None:
    write_jobs(*JOBS)
    code, files, errors = run_jobs()
    assert (code, len(files)) == (0, 3)
    assert "3 images made, 0 existed, 0 of 2 jobs failed" in errors
    times = {file: Path(file).stat().st_mtime_ns for file in files}
    Path(files[1]).unlink()
    code, again, errors = run_jobs()
    assert (code, sorted(again)) == (0, sorted(files))
    assert "1 images made, 2 existed, 0 of 2 jobs failed" in errors
    assert [file for file in files if Path(file).stat().st_mtime_ns != times[file]] == [files[1]]
    code, more, _ = run_jobs("--seed", "1")  # a default for the line without a seed
    assert len(set(more) - set(files)) == 1


def test_temporary_files_of_a_killed_run_are_removed() -> None:
    Path("out/images").mkdir(parents=True)
    killed, running = (Path(f"out/images/.snow-1-0123456789ab.png.{name}.tmp") for name in ("0f0f0f0f", "1e1e1e1e"))
    for path in (killed, running):
        path.write_bytes(b"half")
    os.utime(killed, (1e9, 1e9))
    made("--prompt", "snow", "--steps", "1")
    assert (killed.exists(), running.exists()) == (False, True)


def test_a_batch_is_computed_again_as_a_whole_so_that_its_missing_image_stays_the_same() -> None:
    write_jobs({"prompt": "snow", "n": 3}, {"prompt": "grass", "n": 2})
    _, files, _ = run_jobs("--batch", "4")
    before = {file: Path(file).read_bytes() for file in files}
    for lost in (files[1], files[3]):
        Path(lost).unlink()
    code, again, errors = run_jobs("--batch", "4")
    assert (code, sorted(again)) == (0, sorted(files))
    assert "2 images made, 3 existed" in errors
    assert {file: Path(file).read_bytes() for file in files} == before


def test_a_bad_line_is_named_and_does_not_stop_the_others() -> None:
    write_jobs(
        JOBS[0],
        "{not json",
        "",
        {"prompt": "snow", "text_guidance": float("nan")},
        {"prompt": "snow", "subjects": [{"label": "cat", "images": "cat.png"}]},
        {"prompt": "snow", "height": 65},
        {"prompt": "snow", "layout": "given", "subjects": JOBS[0]["subjects"]},
        {"prompt": "snow", "subjects": [{"label": "<|subject|>", "images": "taxi.png"}]},
        JOBS[1],
    )
    code, files, errors = run_jobs()
    assert (code, len(files)) == (1, 3)
    assert "3 images made, 0 existed, 6 of 8 jobs failed" in errors
    for start in (
        "2: not JSON",
        "4: text_guidance: Input should be a finite number (got nan)",
        "5: jobs/cat.png is missing",
        "6: height=65: give a multiple of 16",
        "7: the subject 'vehicle' has no box",
        "8: the label '<|subject|>'",
    ):
        assert f"error: jobs/jobs.jsonl:{start}" in errors


def test_the_name_of_an_image_may_be_taken() -> None:
    write_jobs(*JOBS)
    _, files, _ = run_jobs()
    shutil.copy(files[0], files[1])
    Path(files[2]).write_text("no image")
    code, again, errors = run_jobs()
    assert (code, again) == (1, files[:1])
    assert f"{files[1]} has the name of an image to make, but is another: move it away" in errors
    assert f"{files[2]} cannot be read as a PNG file" in errors
    assert Path(files[2]).read_text() == "no image"


def incomplete(folder: Path) -> None:
    shutil.copytree(DEFAULT_MODEL, "half")
    Path("half/unet/diffusion_pytorch_model.safetensors").unlink()


def out_is_a_file(folder: Path) -> None:
    Path("out").write_text("")


def nothing(folder: Path) -> None:
    pass


@pytest.mark.parametrize(
    ("words", "prepare", "message"),
    [
        (["--subject", "nothing.png:cat"], nothing, "nothing.png is transparent everywhere"),
        (["--subject", "text.png:cat"], nothing, "text.png cannot be used as an image"),
        (["--subject", "missing.png:cat"], nothing, "missing.png is missing"),
        (["--subject", ".:cat"], nothing, ". is not a file"),
        (["--subject", "taxi.png: "], nothing, "label is blank"),
        (["--subject", "taxi.png"], nothing, "--subject taxi.png: give FILE:LABEL"),
        (["--subject", "opaque.png:cat"], nothing, "opaque.png has no transparency around 'cat', and cannot be cut"),
        (["--subject", "taxi.png:cat", "--mask", "mask.png"], nothing, "mask of 'cat' is 8x8, its picture 256x256"),
        (
            ["--subject", "taxi.png:vehicle"] * 9,
            nothing,
            f"9 subjects, but this model takes {MAX_SUBJECTS}: give fewer",
        ),
        (["--subject", "taxi.png:cat", "--box", "0,0,1.5,1"], nothing, "subjects.0.box.2: Input should be less"),
        (["--subject", "taxi.png:cat", "--box", "0.5,0,0.2,1"], nothing, "does not lie in the image"),
        (["--text-guidance", "nan"], nothing, "text_guidance: Input should be a finite number (got nan)"),
        (["--image-guidance", "-1"], nothing, "image_guidance: "),
        (["--scheduler", "Magic"], nothing, "scheduler='Magic': choose one of DDIM, "),
        (["--layout", "left"], nothing, "layout: "),
        (["--steps", "0"], nothing, "steps: "),
        (["--n", "0"], nothing, "n: "),
        (["--seed", "-1"], nothing, "seed: "),
        (["--width", "65"], nothing, "width=65: give a multiple of 16 pixels"),
        (["--region", "mask.png"], nothing, "give the photo with --into"),
        (["--into", "opaque.png"], nothing, "no region: give"),
        (["--into", "opaque.png", "--region", "taxi.png"], nothing, "the mask of the region is 256x256, the photo 8x8"),
        (["--device", "warp"], nothing, "device='warp' cannot be used"),
        (["--dtype", "int8"], nothing, "dtype='int8': choose one of float32"),
        (["--model", "no/such/model"], nothing, "no/such/model is no folder"),
        (["--model", "half"], incomplete, "half/unet"),
        ([], out_is_a_file, "--out "),
        (["--jobs", "jobs.jsonl"], nothing, "--jobs brings its own settings: leave out --prompt"),
        (["--from", "taxi.png"], nothing, "--from brings its own settings: leave out --prompt"),
        (["--cutout", "no-such-file"], nothing, "no-such-file: no such file"),
    ],
    ids=lambda value: " ".join(value)[:60] if isinstance(value, list) else "",
)
def test_bad_input_gets_one_line_and_exit_code_2(
    folder: Path, words: list[str], prepare: Callable[[Path], None], message: str
) -> None:
    prepare(folder)
    code, files, errors = run("--prompt", "snow", "--cutout", "no_cutter.toml", *words)
    assert (code, files) == (2, [])
    assert message in errors
    assert errors.count("error: ") == 1


def test_without_a_prompt_the_command_says_what_to_give() -> None:
    code, _, errors = run()
    assert code == 2
    assert "give --prompt" in errors
    code, _, errors = run("--from", "taxi.png")
    assert code == 2
    assert "taxi.png does not tell how it was made" in errors
    code, _, errors = run("--jobs", "missing.jsonl")
    assert code == 2
    assert "missing.jsonl cannot be read (No such file or directory)" in errors


def test_prompts_may_be_empty_or_too_long() -> None:
    assert len(made("--prompt", "", "--steps", "1")) == 1
    code, files, errors = run("--prompt", "snow " * 2000, "--steps", "1")
    assert (code, len(files)) == (0, 1)
    assert "the prompt is too long: its last" in errors


@contextmanager
def disk_with(size: int) -> Iterator[None]:
    """Let no file grow beyond `size` bytes, as on a full disk."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_a_full_disk_stops_the_command_and_leaves_no_half_image() -> None:
    with disk_with(4096):
        code, files, errors = run("--subject", "taxi.png:vehicle", *SNOW)
    assert (code, files) == (2, [])
    assert "cannot be written (File too large): free space, or give another folder" in errors
    assert list(Path("out/images").iterdir()) == []
