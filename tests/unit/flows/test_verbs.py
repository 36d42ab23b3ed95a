"""Verbs that call a model's tables and the scores of the miniature world."""

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from typer.main import get_command
from typer.testing import CliRunner

from flows.cli import app
from labeling.config import RulesConfig
from labeling.finish import FinishJob
from labeling.sdd.schema import Image, ListedUrl
from labeling.sdd.shards import ShardStore
from miniature.scoring.true_layers import STAMP, read_truth, write_truth
from miniature.world.scenes import ScenesConfig
from miniature.world.serve import TRUTH, WorldConfig, write_world
from tests.factories import SHARD, image, listed
from tests.small_model import small_config

LAYERS = ("captions", "nouns", "detections", "entities")


def paths(command: object, path: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    """Return the words of every verb and sub-verb."""
    for name, verb in getattr(command, "commands", {}).items():
        yield (*path, name)
        yield from paths(verb, (*path, name))


def run(*words: str) -> str:
    result = CliRunner().invoke(app, words)
    assert result.exit_code == 0, result.exception or result.output
    return result.stdout


@pytest.mark.parametrize("path", list(paths(get_command(app))), ids=" ".join)
def test_every_verb_explains_itself(path: tuple[str, ...]) -> None:
    assert "Usage: " in run(*path, "--help")


@pytest.mark.slow  # the same tables as in tests/unit/model/test_describe.py, through the verb
def test_describe_prints_the_tables_of_a_settings_file(tmp_path: Path) -> None:
    config = small_config(tmp_path)
    settings = tmp_path / "small.toml"
    settings.write_text(f'[model]\nbase = "{config.base}"\nimage_encoder = "{config.image_encoder}"\n')
    text = run("describe", "--config", str(settings), "--batch", "2", "--subjects", "1", "--workers", "3")
    assert text.startswith(f"{settings}: {config.base} + {config.image_encoder}\n")
    assert "FSDP2 on 3" in text
    assert "the paper (App. A)" in text


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["describe", "--preset", "paper", "--config", "paper"], "--preset and --config"),
        (["describe", "--set", "model.no_such_key=1"], "no_such_key"),
        (["score", "subjects", "no/such/folder"], "no/such/folder"),
        (["score", "base", "no/such/folder"], "no/such/folder"),
        (["score", "baselines", "--embedder", "no/such/folder"], "no/such/folder"),
        (["score", "labels", "--config", "demo", "--truth", "no/such/file"], "no/such/file"),
    ],
)
def test_a_verb_refuses_what_it_cannot_use(words: list[str], message: str) -> None:
    result = CliRunner().invoke(app, words)
    assert result.exit_code == 2, result.exception
    assert message in " ".join(result.stderr.split())


def test_score_labels_prints_and_writes_the_figures_of_a_build(tmp_path: Path) -> None:
    """Every layer of the build is the truth, so that every share is 1."""
    world, store = tmp_path / "world", ShardStore(str(tmp_path / "sdd"))
    write_world(world, 3, 3, WorldConfig(scenes=ScenesConfig(width_px=(160, 200), height_px=(160, 200))))
    truth = read_truth(world / TRUTH)
    pictures = [
        replace(
            image(number, (world / "images" / Path(url).name).read_bytes(), url),
            width_px=scene.width_px,
            height_px=scene.height_px,
        )
        for number, (url, scene) in enumerate(truth.items())
    ]
    store.write_outcomes("images", SHARD, pictures, Image, "downloaded")
    write_truth(store, store, truth, LAYERS)
    store.write("urls", SHARD, [listed(n, url) for n, url in enumerate(truth)], ListedUrl, STAMP)
    job = FinishJob(root=str(tmp_path / "sdd"), rules=RulesConfig(), layers=("images", *LAYERS))
    assert job.make(SHARD).error is None
    options = ["--set", f"labeling.root={tmp_path}/sdd", "--truth", str(world / TRUTH)]
    text = run("score", "labels", "--config", "demo", *options, "--json", str(tmp_path / "figures.json"))
    assert "end to end" in text
    figures = json.loads((tmp_path / "figures.json").read_text())
    assert {figure["value"] for figure in figures if figure["figure"] != "outside the rules"} == {1.0}


def test_score_base_prints_and_writes_its_figures(tmp_path: Path) -> None:
    options = ["--count", "1", "--steps", "1", "--out", str(tmp_path)]
    assert "generated" in run("score", "base", "miniature/weights/base", *options)
    assert len(json.loads((tmp_path / "figures.json").read_text())) == 16
