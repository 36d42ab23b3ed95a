"""The verb that exports a dataset."""

import json
import re
import tarfile
from pathlib import Path
from typing import Any

import pytest
from pycocotools.coco import COCO
from typer.testing import CliRunner

from flows.cli import app
from tests.datasets import dataset_of_two
from tests.factories import key

GUIDE = Path(__file__).parents[3] / "docs" / "guide" / "import-export.md"


def blocks(language: str) -> list[str]:
    """Return the fenced blocks of the guide in a language, in order."""
    return re.findall(rf"^```{language}\n(.*?)^```", GUIDE.read_text(), re.MULTILINE | re.DOTALL)


def run(*words: str) -> str:
    done = CliRunner().invoke(app, words)
    assert done.exit_code == 0, done.exception or done.output
    return done.stdout


def test_the_guide_reads_a_mask_with_pycocotools(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    dataset_of_two(tmp_path / "out" / "sdd")
    run("export-dataset", "out/sdd", "out/coco", "--format", "coco")
    names: dict[str, Any] = {}
    (block,) = (block for block in blocks("python") if "import pycocotools.coco" in block)
    exec(block, names)
    assert names["mask"].shape == (names["image"]["height"], names["image"]["width"])
    assert names["mask"].sum() == names["annotations"][0]["area"]


def test_a_dataset_is_exported(tmp_path: Path) -> None:
    dataset_of_two(tmp_path / "sdd")
    text = run("export-dataset", str(tmp_path / "sdd"), str(tmp_path / "coco"), "--format", "coco")
    images = len(COCO(tmp_path / "coco" / "instances.json").imgs)
    assert text.startswith(f"{tmp_path}/coco: {images} images")


def test_a_selection_is_exported_by_its_keys(tmp_path: Path) -> None:
    root, keys = dataset_of_two(tmp_path / "sdd"), tmp_path / "keys.txt"
    keys.write_text(f"{key(21).hex()}\n{key(2).hex()}\n")
    text = run("export-dataset", str(root), str(tmp_path / "tars"), "--format", "webdataset", "--keys", str(keys))
    assert text == f"{tmp_path}/tars: 2 images\n"
    with tarfile.open(tmp_path / "tars" / "shard-000000.tar") as tar:
        assert {name.split(".")[0] for name in tar.getnames()} == {key(21).hex(), key(2).hex()}


def test_labels_are_those_of_the_selection(tmp_path: Path) -> None:
    root, keys = dataset_of_two(tmp_path / "sdd"), tmp_path / "keys.txt"
    keys.write_text(f"{key(23).hex()}\n")
    run("export-dataset", str(root), str(tmp_path / "coco"), "--format", "coco", "--keys", str(keys))
    (category,) = COCO(tmp_path / "coco" / "instances.json").cats.values()
    assert category["name"] == "cat"


def test_keys_that_sdd_lacks_are_refused(tmp_path: Path) -> None:
    root, keys = dataset_of_two(tmp_path / "sdd"), tmp_path / "keys.txt"
    keys.write_text(f"{key(21).hex()}\n{key(3).hex()}\n")  # image 3 was dropped
    words = ["export-dataset", str(root), str(tmp_path / "out"), "--format", "hf", "--keys", str(keys)]
    done = CliRunner().invoke(app, words)
    assert done.exit_code == 2
    assert f"lacks 1 of 2 keys in sdd/, {key(3).hex()} first" in done.stderr
    assert not (tmp_path / "out").exists()


def test_an_existing_folder_is_refused_in_one_line(tmp_path: Path) -> None:
    dataset_of_two(tmp_path / "sdd")
    done = CliRunner().invoke(app, ["export-dataset", str(tmp_path / "sdd"), str(tmp_path), "--format", "yolo"])
    assert done.exit_code == 2
    assert done.stderr == f"error: {tmp_path} exists: give the name of a new folder, or remove it\n"


def test_a_folder_that_is_no_dataset_is_refused(tmp_path: Path) -> None:
    done = CliRunner().invoke(app, ["export-dataset", str(tmp_path), str(tmp_path / "out"), "--format", "coco"])
    assert done.exit_code == 2
    assert "not a dataset" in done.stderr
    assert not (tmp_path / "out").exists()


def test_corrections_are_read_back(tmp_path: Path) -> None:
    dataset_of_two(tmp_path / "sdd")
    run("export-dataset", str(tmp_path / "sdd"), str(tmp_path / "review"), "--format", "label-studio")
    tasks = json.loads((tmp_path / "review" / "tasks.json").read_text())
    tasks[0]["annotations"] = [{"result": []}]
    (tmp_path / "first.json").write_text(json.dumps(tasks))
    text = run("import", str(tmp_path / "first.json"), str(tmp_path / "sdd"), "--format", "label-studio")
    removed = len(tasks[0]["predictions"][0]["result"])
    assert text == f"0 moved, 0 relabelled, {removed} removed, 0 added\n"
    assert (tmp_path / "sdd" / "corrections" / "first.parquet").exists()


@pytest.mark.parametrize(("format_", "option"), [("coco", "--images"), ("openimages", "--images")])
def test_a_missing_option_is_named(tmp_path: Path, format_: str, option: str) -> None:
    words = ["import", str(tmp_path / "x"), str(tmp_path / "sdd"), "--format", format_]
    done = CliRunner().invoke(app, words)
    assert done.exit_code == 2
    assert f"give {option} for this format" in " ".join(done.stderr.split())
