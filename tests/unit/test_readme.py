"""The examples of the README and the guide run as they are printed."""

import re
import shlex
import shutil
import subprocess
import sys
from glob import glob
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from flows.cli import app
from flows.generation.job import parse_json
from labeling.config import RulesConfig
from labeling.finish import FinishJob
from labeling.sdd import masks
from labeling.sdd.schema import SddRow
from labeling.sdd.shards import ShardStore
from tests.factories import SHARD, labelled
from tests.sound_dataset import edit

ROOT = Path(__file__).parents[2]
README, DATASET, GENERATE = (
    (ROOT / path).read_text() for path in ("README.md", "docs/guide/dataset.md", "docs/guide/generate.md")
)
MODEL = "miniature/weights/subject_diffusion"


def blocks(language: str, text: str) -> list[str]:
    """Return the fenced blocks of a language, in order."""
    return re.findall(rf"^```{language}\n(.*?)^```", text, re.MULTILINE | re.DOTALL)


@pytest.fixture(scope="module")
def dataset(tmp_path_factory) -> Path:
    """Folder in which out/sdd is a finished dataset."""
    folder = tmp_path_factory.mktemp("readme")
    labelled(folder / "out" / "sdd")
    layers = ("images", "captions", "nouns", "detections", "entities")
    job = FinishJob(root=str(folder / "out" / "sdd"), rules=RulesConfig(), layers=layers)
    assert job.make(SHARD).error is None
    return folder


@pytest.fixture
def row(dataset, monkeypatch) -> SddRow:
    """Return the first row of the dataset in out/sdd."""
    monkeypatch.chdir(dataset)
    return next(iter(ShardStore("out/sdd").read(SddRow, ["sdd"], SHARD)))


def names_after(module: str) -> dict[str, Any]:
    """Run the guide's block that imports `module` and return the names that it defines."""
    pytest.importorskip(module)
    (block,) = (
        block for block in blocks("python", DATASET) if re.search(rf"^import .*\b{module}\b", block, re.MULTILINE)
    )
    names: dict[str, Any] = {}
    exec(block, names)
    return names


def test_a_mask_is_decoded_with_pycocotools(row):
    names = names_after("pandas")
    assert names["sdd"].iloc[0]["caption"] == row.caption
    mask = row.entities[0].mask
    assert (names["inside"] == masks.decode(mask, row.height_px, row.width_px)).all()
    assert names["inside"].sum() == row.entities[0].mask_area_px


def test_polars_reads_entities(row):
    entities = names_after("polars")["entities"]
    assert entities["label"].to_list() == ["dog", "cat", "dog"]
    assert entities.row(0, named=True)["span_end"] == row.entities[0].span_end


def test_hugging_face_reads_images(row, tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HOME", str(tmp_path))
    first = next(iter(names_after("datasets")["sdd"]))
    assert first["caption"] == row.caption
    assert np.asarray(first["image"]).shape == (row.height_px, row.width_px, 3)


def test_every_block_of_python_is_run():
    modules = {re.search(r"^import (.*)", block, re.MULTILINE)[1] for block in blocks("python", DATASET)}
    assert modules == {"numpy, pandas, pycocotools.mask", "polars", "datasets"}
    assert (len(blocks("python", README)), len(blocks("python", GENERATE))) == (1, 3)


@pytest.fixture
def checkout(tmp_path, monkeypatch) -> Path:
    """Working folder with the inputs of a checkout, where examples may write."""
    for name in ("miniature", "docs"):
        (tmp_path / name).symlink_to(ROOT / name)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def assert_shows_a_yellow_taxi_in_the_snow(file: Path) -> None:
    pixels = np.asarray(Image.open(file)).astype(int)
    yellow = (pixels[..., 0] > 180) & (pixels[..., 0] - pixels[..., 2] > 80)
    assert yellow.mean() > 0.1
    assert pixels[:8].mean() > 200


def test_the_first_example_generates_a_yellow_taxi_in_the_snow(checkout):
    exec(blocks("python", README)[0], {})
    assert_shows_a_yellow_taxi_in_the_snow(checkout / "taxi.png")


def test_the_first_commands_generate_a_taxi_and_generate_it_again(checkout):
    commands = [shlex.split(line) for line in "\n".join(blocks("", README)).splitlines() if " generate " in line]
    first, more, again = (words[1:] for words in commands)
    for words in (first, [*more, "--n", "2"]):
        done = CliRunner().invoke(app, words)
        assert done.exit_code == 0, done.output
    for file in done.stdout.splitlines():
        assert_shows_a_yellow_taxi_in_the_snow(checkout / file)
    (pattern,) = (word for word in again if "*" in word)
    (file,) = glob(pattern)
    again[again.index(pattern)] = file
    done = CliRunner().invoke(app, again)
    assert done.exit_code == 0, done.output
    assert "identical" in done.stderr


def test_the_jobs_of_the_guide_are_jobs():
    lines = blocks("json", GENERATE)[0].splitlines()
    assert [len(parse_json(line, "line").subjects) for line in lines] == [1, 1, 1]


@pytest.mark.slow
def test_the_examples_of_the_guide_run_on_the_small_model(checkout):
    jobs, first, into_a_photo = blocks("python", GENERATE)
    exec(jobs, {})
    assert_shows_a_yellow_taxi_in_the_snow(checkout / "taxi.png")
    code = first.replace("dog.png", "docs/pictures/taxi.png").replace('.to("cuda")', "")
    names: dict[str, Any] = {}
    exec(code.replace('"out/model", dtype=torch.bfloat16', f'"{MODEL}"'), names)
    assert names["result"].boxes == [((0.1, 0.4, 0.6, 0.9),)]
    Image.new("RGB", (90, 60), "white").save("room.jpg")
    Image.new("L", (90, 60), 0).save("region.png")
    with Image.open("region.png") as region:
        region.paste(255, (20, 10, 60, 50))
        region.save("region.png")
    exec(into_a_photo, names)
    assert names["result"].images[0].size == (90, 60)


def test_the_queries_and_the_commands_that_look_run(row):
    commands = {
        tuple(shlex.split(line, comments=True)[1:])
        for text in (README, DATASET)
        for line in "\n".join(blocks("", text)).splitlines()
        if re.match(r"\S*subject-diffusion (status|inspect|picture) ", line)
    }
    assert {verb for verb, *_ in commands} == {"status", "inspect", "picture"}
    (sql,) = blocks("sql", DATASET)
    for words in [*commands, ("inspect", "out/sdd", sql)]:
        done = CliRunner().invoke(app, words)
        assert done.exit_code == 0, (words, done.output)
        assert done.stdout


@pytest.mark.slow
def test_shards_with_images_that_an_api_failed_on_are_taken_back(dataset, tmp_path):
    root = Path(shutil.copytree(dataset / "out" / "sdd", tmp_path / "out" / "sdd"))
    (command,) = (block for block in blocks("bash", DATASET) if "api_%" in block)
    command = command.replace(".venv/bin/subject-diffusion", f"{sys.executable} -m flows.cli")

    def layers_after_it() -> set[str]:
        subprocess.run(["bash", "-c", command], cwd=tmp_path, check=True)
        return {path.parent.name for path in root.glob(f"*/{SHARD}.parquet")}

    finished = {path.parent.name for path in root.glob(f"*/{SHARD}.parquet")}
    assert layers_after_it() == finished
    edit(root / "captions" / f"{SHARD}.parquet", lambda rows: rows[0].update(reason="api_unavailable"))
    assert layers_after_it() == finished & {"urls", "images"}
