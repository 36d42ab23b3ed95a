"""Tasks for Label Studio, and the corrections that come back."""

import json
from copy import deepcopy
from dataclasses import asdict
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pyarrow.parquet as pq
import pytest

from labeling.errors import ExchangeError
from labeling.exchange.export import export_dataset
from labeling.exchange.formats import ExportFormat
from labeling.exchange.label_studio_import import import_corrections
from tests.datasets import NEXT, dataset_of_two
from tests.factories import SHARD
from tests.unit.labeling.exchange.test_coco_export import rows_of

BIRD = {"x": 50.0, "y": 50.0, "width": 25.0, "height": 25.0, "rotation": 0, "rectanglelabels": ["bird"]}


@pytest.fixture
def tasks(tmp_path: Path) -> list[dict[str, Any]]:
    """Tasks of the dataset in sdd/, without annotations."""
    dataset_of_two(tmp_path / "sdd")
    export_dataset(str(tmp_path / "sdd"), tmp_path / "review", ExportFormat.LABEL_STUDIO)
    read: list[dict[str, Any]] = json.loads((tmp_path / "review" / "tasks.json").read_text())
    return read


def annotate(task: dict[str, Any], **others: object) -> list[dict[str, Any]]:
    """Accept the predictions of a task, as its export shows it; return the regions."""
    regions = deepcopy(task["predictions"][0]["result"])
    annotation = {
        "id": 1,
        "result": regions,
        "was_cancelled": False,
        "completed_by": 7,
        "updated_at": "2026-01-02T03:04:05Z",
    }
    task.setdefault("annotations", []).append(annotation | others)
    return regions


def corrections(tmp_path: Path, tasks: list[dict[str, Any]]) -> list[dict[str, Any]]:
    (tmp_path / "first.json").write_text(json.dumps(tasks))
    import_corrections(tmp_path / "first.json", str(tmp_path / "sdd"))
    rows: list[dict[str, Any]] = pq.read_table(tmp_path / "sdd" / "corrections" / "first.parquet").to_pylist()
    return rows


def of_two(tasks: list[dict[str, Any]]) -> dict[str, Any]:
    """Return a task with two entities."""
    return next(task for task in tasks if len(task["predictions"][0]["result"]) == 2)


def test_tasks_hold_the_entities_of_every_image(tmp_path, tasks):
    for row, task in zip(rows_of(tmp_path / "sdd"), tasks, strict=True):
        assert (task["data"]["key"], task["data"]["caption"]) == (row.key.hex(), row.caption)
        file = task["data"]["image"].removeprefix("/data/local-files/?d=")
        assert (tmp_path / "review" / file).read_bytes() == row.image
        for entity, region in zip(row.entities, task["predictions"][0]["result"], strict=True):
            value = region["value"]
            assert value["rectanglelabels"] == [entity.label]
            assert value["x"] / 100 * region["original_width"] == pytest.approx(entity.box.x0)
            bottom = (value["y"] + value["height"]) / 100 * region["original_height"]
            assert bottom == pytest.approx(entity.box.y1)
    config = ElementTree.parse(tmp_path / "review" / "label_config.xml")
    assert [label.get("value") for label in config.iter("Label")] == ["cat", "dog"]


def test_accepted_predictions_are_no_corrections(tmp_path, tasks):
    for task in tasks:
        annotate(task)
    assert corrections(tmp_path, tasks) == []


def test_each_change_is_a_correction_with_author_and_time(tmp_path, tasks):
    task = of_two(tasks)
    first, _ = annotate(task, completed_by={"id": 7, "email": "eve@example.com"})
    task["annotations"][0]["result"] = [first, {"id": "new", "type": "rectanglelabels", "value": BIRD}]
    first["value"] |= {"x": first["value"]["x"] + 10, "rectanglelabels": ["wolf"]}
    entity, other = next(row for row in rows_of(tmp_path / "sdd") if row.key.hex() == task["data"]["key"]).entities
    found = corrections(tmp_path, tasks)
    assert [(row["action"], row["entity"] and row["entity"]["label"], row["label"]) for row in found] == [
        ("relabelled", entity.label, "wolf"),
        ("moved", entity.label, None),
        ("removed", other.label, None),
        ("added", None, "bird"),
    ]
    assert found[0]["entity"]["box"] == found[1]["entity"]["box"] == asdict(entity.box)
    assert {row["shard"] for row in found} == {NEXT if task["data"]["key"] > "00" * 15 + "14" else SHARD}
    assert {(row["key"].hex(), row["author"], row["made_at"]) for row in found} == {
        (task["data"]["key"], "eve@example.com", "2026-01-02T03:04:05Z")
    }
    assert found[1]["box"]["x0"] == pytest.approx(entity.box.x0 + 6.4, abs=1e-4)
    assert found[3]["box"] == {"x0": 32.0, "y0": 24.0, "x1": 48.0, "y1": 36.0}


def test_a_region_with_a_new_id_is_the_entity_that_it_covers(tmp_path, tasks):
    for region in annotate(of_two(tasks)):
        region["id"] = f"x{region['id']}"
    task = of_two(tasks)
    task["annotations"][0]["result"] = [r | {"id": f"x{r['id']}"} for r in task["predictions"][0]["result"]]
    assert corrections(tmp_path, tasks) == []


def test_regions_that_were_drawn_twice_are_two(tmp_path, tasks):
    task = tasks[0]
    regions = annotate(task)
    new = {"id": "", "type": "rectanglelabels", "value": BIRD}
    task["annotations"][0]["result"] = [*regions, regions[0], new, new]
    labels = [(row["action"], row["label"]) for row in corrections(tmp_path, tasks)]
    assert labels == [("added", regions[0]["value"]["rectanglelabels"][0]), ("added", "bird"), ("added", "bird")]


def test_the_last_finished_annotation_counts(tmp_path, tasks):
    annotate(tasks[0], result=[])
    annotate(tasks[0])
    annotate(tasks[0], result=[], was_cancelled=True)
    assert corrections(tmp_path, tasks) == []


@pytest.mark.parametrize(
    ("value", "message"),
    [(BIRD | {"rotation": 5}, "is rotated: draw it upright"), ({"points": []}, "Field required")],
)
def test_an_unusable_region_is_named(tmp_path, tasks, value, message):
    annotate(tasks[0], result=[{"id": "r1", "type": "rectanglelabels", "value": value}])
    with pytest.raises(ExchangeError, match=rf"{tasks[0]['data']['key']}, region 'r1'.*{message}"):
        corrections(tmp_path, tasks)


def test_an_image_of_another_dataset_is_refused(tmp_path, tasks):
    annotate(tasks[0])
    tasks[0]["data"]["key"] = "00" * 15 + "ff"
    with pytest.raises(ExchangeError, match="lacks 1 of its images, first 0000"):
        corrections(tmp_path, tasks)


@pytest.mark.parametrize("text", ["{}", "[", '[{"data": {"image": "x"}}]'])
def test_another_file_is_refused(tmp_path, text):
    dataset_of_two(tmp_path / "sdd")
    (tmp_path / "first.json").write_text(text)
    with pytest.raises(ExchangeError, match="give the JSON export of the project"):
        import_corrections(tmp_path / "first.json", str(tmp_path / "sdd"))
