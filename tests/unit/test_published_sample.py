"""The sample in docs/examples: sound, as its page describes it, and read by the programs that it is exported for."""

import re
from pathlib import Path

import duckdb
import numpy as np
import pytest
from pycocotools.coco import COCO

from labeling.exchange.export import export_dataset
from labeling.exchange.formats import ExportFormat
from labeling.sdd.schema import Layer, SddRow
from labeling.sdd.shards import ShardStore
from labeling.validation.validate import Scope, validate

ROOT = Path(__file__).parents[2]
SAMPLE = ROOT / "docs" / "examples" / "miniature"
PAGE = ROOT / "docs" / "reference" / "sdd-format.md"
BLOCKS = re.findall(r"```sql\n(.*?)```", PAGE.read_text(), re.DOTALL)
QUERIES = re.findall(r"^(SELECT.*?);\s*-- ([^\n]*)$", "\n".join(BLOCKS), re.DOTALL | re.MULTILINE)
"""Queries of the page with their answers."""


def test_the_page_has_queries() -> None:
    assert len(QUERIES) == 6


@pytest.mark.parametrize(("sql", "answer"), QUERIES)
def test_a_query_of_the_page_gives_its_answer(sql: str, answer: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    with duckdb.connect() as session:
        rows = session.execute(sql).fetchall()
    assert "; ".join(", ".join(map(str, row)) for row in rows) == answer


def test_the_sample_is_sound_and_small() -> None:
    *_, found = validate(str(SAMPLE), Scope(), workers=1)
    assert found.faults == []
    assert (found.rows[Layer.SDD], found.rows[Layer.LEDGER]) == (178, 300)
    assert sum(path.stat().st_size for path in SAMPLE.rglob("*")) < 4e6


def sample_rows() -> dict[str, SddRow]:
    store = ShardStore(str(SAMPLE))
    return {row.key.hex(): row for shard in store.shards(Layer.SDD) for row in store.read(SddRow, (Layer.SDD,), shard)}


def test_pycocotools_reads_the_export(tmp_path: Path) -> None:
    export_dataset(str(SAMPLE), tmp_path / "coco", ExportFormat.COCO)
    read, rows = COCO(str(tmp_path / "coco" / "instances.json")), sample_rows()
    assert len(read.getImgIds()) == len(rows)
    for image in read.loadImgs(read.getImgIds()):
        annotations = read.loadAnns(read.getAnnIds(image["id"]))
        areas = [int(read.annToMask(annotation).sum()) for annotation in annotations]
        assert sorted(areas) == sorted(entity.mask_area_px for entity in rows[image["sdd_key"]].entities)


def test_datasets_reads_the_export(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    datasets = pytest.importorskip("datasets")
    export_dataset(str(SAMPLE), tmp_path / "hf", ExportFormat.HF, licence="mit")
    monkeypatch.setenv("HF_HOME", str(tmp_path / "cache"))
    files = str(tmp_path / "hf" / "data" / "*.parquet")
    read = datasets.load_dataset("parquet", data_files=files, split="train", cache_dir=str(tmp_path / "cache"))
    rows = sample_rows()
    assert read["key"] == list(rows)
    first = read[0]
    row = rows[first["key"]]
    assert np.asarray(first["image"]).shape == (row.height_px, row.width_px, 3)
    assert [each["label"] for each in first["objects"]] == [entity.label for entity in row.entities]
