"""Parquet files, card and Croissant of an export for Hugging Face."""

import hashlib
import json

import numpy as np
import pyarrow.parquet as pq
import pytest
import yaml
from pycocotools import mask as coco

from labeling.config import LabelingConfig, RulesConfig
from labeling.exchange import hugging_face_export
from labeling.exchange.export import export_dataset
from labeling.exchange.formats import ExportFormat
from labeling.execution.record import record_run
from labeling.sdd import masks
from tests.datasets import dataset_of_two
from tests.unit.labeling.exchange.test_coco_export import rows_of


@pytest.fixture
def exported(tmp_path, monkeypatch):
    monkeypatch.setattr(hugging_face_export, "ROWS_PER_FILE", 2)
    dataset_of_two(tmp_path / "sdd")
    with record_run(LabelingConfig(root=str(tmp_path / "sdd"), rules=RulesConfig(min_score=0.35)), [], 2):
        pass
    export_dataset(str(tmp_path / "sdd"), tmp_path / "animals", ExportFormat.HF, licence="cc-by-4.0")
    return tmp_path


def test_parquet_files_hold_every_row(exported):
    rows = rows_of(exported / "sdd")
    files = sorted((exported / "animals" / "data").iterdir())
    assert len(files) == -(-len(rows) // 2)
    records = [record for file in files for record in pq.read_table(file).to_pylist()]
    assert [record["key"] for record in records] == [row.key.hex() for row in rows]
    for row, record in zip(rows, records, strict=True):
        assert record["image"] == {"bytes": row.image, "path": f"{row.key.hex()}.jpg"}
        assert (record["caption"], record["url"], record["width"]) == (row.caption, row.url, row.width_px)
        for entity, found in zip(row.entities, record["objects"], strict=True):
            assert (found["label"], found["span"]) == (entity.label, [entity.span_start, entity.span_end])
            expected = masks.decode(entity.mask, row.height_px, row.width_px)
            np.testing.assert_array_equal(coco.decode(found["segmentation"]), expected)


def test_datasets_reads_images_and_objects(exported, monkeypatch):
    datasets = pytest.importorskip("datasets")
    monkeypatch.setenv("HF_HOME", str(exported / "cache"))
    files = str(exported / "animals" / "data" / "*.parquet")
    read = datasets.load_dataset("parquet", data_files=files, split="train", cache_dir=str(exported / "cache"))
    for row, found in zip(rows_of(exported / "sdd"), read, strict=True):
        assert np.asarray(found["image"]).shape == (row.height_px, row.width_px, 3)
        assert [each["label"] for each in found["objects"]] == [entity.label for entity in row.entities]


def test_the_card_tells_counts_rules_and_licence(exported):
    rows = rows_of(exported / "sdd")
    _, head, text = (exported / "animals" / "README.md").read_text().split("---\n", 2)
    settings = yaml.safe_load(head)
    assert (settings["license"], settings["size_categories"]) == ("cc-by-4.0", ["n<1K"])
    assert settings["pretty_name"] == "animals"
    entities = [entity.label for row in rows for entity in row.entities]
    assert f"{len(rows)} images with captions and {len(entities)} entities of 2 labels" in text
    assert f"| dog | {entities.count('dog')} |" in text
    assert "| `min_score` | 0.35 |" in text
    assert str(exported) not in text


def test_croissant_describes_the_files(exported):
    folder = exported / "animals"
    described = json.loads((folder / "croissant.json").read_text())
    assert described["conformsTo"] == "http://mlcommons.org/croissant/1.0"
    objects = [each for each in described["distribution"] if each["@type"] == "cr:FileObject"]
    assert {each["contentUrl"] for each in objects} == {f"data/{file.name}" for file in (folder / "data").iterdir()}
    for each in objects:
        assert each["sha256"] == hashlib.sha256((folder / each["contentUrl"]).read_bytes()).hexdigest()
    (records,) = described["recordSet"]
    columns = set(pq.read_schema(next((folder / "data").iterdir())).names)
    assert {field["source"]["extract"]["column"] for field in records["field"]} <= columns


def test_mlcroissant_accepts_the_description(exported):
    croissant = pytest.importorskip("mlcroissant")
    dataset = croissant.Dataset(str(exported / "animals" / "croissant.json"))
    captions = [record["default/caption"].decode() for record in dataset.records("default")]
    assert captions == [row.caption for row in rows_of(exported / "sdd")]
