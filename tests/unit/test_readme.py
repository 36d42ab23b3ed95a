"""What the README and the guide say of a dataset runs as it stands there."""

import re
import shlex
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

from flows.cli import app
from labeling.config import RulesConfig
from labeling.finish import FinishJob
from labeling.sdd import masks
from labeling.sdd.schema import SddRow
from labeling.sdd.shards import ShardStore
from tests.factories import SHARD, labelled

ROOT = Path(__file__).parents[2]
README, GUIDE = ((ROOT / path).read_text() for path in ("README.md", "docs/guide/dataset.md"))


def blocks(language: str, text: str = README) -> list[str]:
    """The fenced blocks of a language, in order."""
    return re.findall(rf"^```{language}\n(.*?)^```", text, re.MULTILINE | re.DOTALL)


@pytest.fixture(scope="module")
def dataset(tmp_path_factory) -> Path:
    """The folder in which out/sdd is a finished dataset."""
    folder = tmp_path_factory.mktemp("readme")
    labelled(folder / "out" / "sdd")
    layers = ("images", "captions", "nouns", "detections", "entities")
    job = FinishJob(root=str(folder / "out" / "sdd"), rules=RulesConfig(), layers=layers)
    assert job.make(SHARD).error is None
    return folder


@pytest.fixture
def row(dataset, monkeypatch) -> SddRow:
    """The first row of the dataset that out/sdd is."""
    monkeypatch.chdir(dataset)
    return next(iter(ShardStore("out/sdd").read(SddRow, ["sdd"], SHARD)))


def names_after(module: str) -> dict[str, Any]:
    """The names that the README's block which imports `module` leaves."""
    pytest.importorskip(module)
    (block,) = (block for block in blocks("python") if re.search(rf"^import .*\b{module}\b", block, re.MULTILINE))
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


def test_every_block_of_python_is_tried():
    modules = {re.search(r"^import (.*)", block, re.MULTILINE)[1] for block in blocks("python")}
    assert modules == {"numpy, pandas, pycocotools.mask", "polars", "datasets"}


def test_the_queries_and_the_commands_that_look_run(row):
    commands = [
        shlex.split(line, comments=True)[1:]
        for line in "\n".join(blocks("")).splitlines()
        if re.match(r"\S*subject-diffusion (status|inspect|picture) ", line)
    ]
    assert {verb for verb, *_ in commands} == {"status", "inspect", "picture"}
    queries = [["inspect", "out/sdd", block] for text in (README, GUIDE) for block in blocks("sql", text)]
    assert len(queries) == 2
    for words in [*commands, *queries]:
        done = CliRunner().invoke(app, words)
        assert done.exit_code == 0, (words, done.output)
        assert done.stdout
