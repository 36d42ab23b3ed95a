"""The verb `validate`: its tables, its JSON and its exit codes."""

import json
import shutil
from pathlib import Path

import pytest
from click.testing import Result
from typer.testing import CliRunner

from flows.cli import app
from tests.sound_dataset import edit, sound_dataset


@pytest.fixture(scope="module")
def sound(tmp_path_factory) -> Path:
    return sound_dataset(tmp_path_factory.mktemp("sound") / "sdd")


@pytest.fixture
def broken(sound: Path, tmp_path: Path) -> Path:
    """A dataset with three scores above 1."""
    root = Path(shutil.copytree(sound, tmp_path / "sdd"))
    path = root / "sdd" / "shard-00000.parquet"
    edit(path, lambda rows: [entity.update(score=2.0) for row in rows for entity in row["entities"]])
    return root


def run(*words: object) -> Result:
    return CliRunner().invoke(app, ["validate", *map(str, words), "--workers", "1"])


def test_a_sound_dataset_exits_with_0(sound: Path) -> None:
    result = run(sound)
    assert result.exit_code == 0, result.output
    assert "2 shards, " in result.stdout
    assert "11 of urls/" in result.stdout
    assert result.stdout.endswith("no fault\n")


def test_faults_are_counted_listed_and_exit_with_1(broken: Path) -> None:
    result = run(broken, "--limit", 2)
    assert result.exit_code == 1
    assert "3  scores: " in result.stdout
    assert result.stdout.endswith("3 faults\n")
    wrong = [line for line in result.stderr.splitlines() if line.startswith("wrong: ")]
    assert len(wrong) == 2
    assert wrong[0].startswith(
        "wrong: scores: sdd/shard-00000, row 0, entities[0].score: 2 is not between 0 and 1 (key "
    )


def test_json_names_every_check(broken: Path) -> None:
    result = run(broken, "--json", "--fast", "--layer", "sdd", "--layer", "ledger")
    assert result.exit_code == 1
    found = json.loads(result.stdout)
    assert found["rows"] == {"sdd": 4, "ledger": 11}
    assert {name for name, check in found["checks"].items() if check["faults"]} == {"scores"}
    assert found["faults"][0] | {"key": "", "row": 0} == {
        "check": "scores",
        "layer": "sdd",
        "shard": "shard-00000",
        "row": 0,
        "column": "entities[0].score",
        "key": "",
        "message": "2 is not between 0 and 1",
    }


def test_what_is_no_dataset_exits_with_2(tmp_path: Path) -> None:
    result = run(tmp_path)
    assert result.exit_code == 2
    assert "not a dataset" in result.stderr
