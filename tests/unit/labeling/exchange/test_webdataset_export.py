"""WebDataset reads every sample of an export."""

import json

import numpy as np
import pytest
import webdataset
from pycocotools import mask as coco

from labeling.exchange import webdataset_export
from labeling.exchange.export import export_dataset
from labeling.exchange.formats import ExportFormat
from labeling.sdd import masks
from tests.datasets import dataset_of_two
from tests.unit.labeling.exchange.test_coco_export import rows_of


@pytest.fixture
def exported(tmp_path, monkeypatch):
    monkeypatch.setattr(webdataset_export, "SAMPLES_PER_TAR", 2)
    dataset_of_two(tmp_path / "sdd")
    export_dataset(str(tmp_path / "sdd"), tmp_path / "tars", ExportFormat.WEBDATASET)
    return tmp_path


def test_webdataset_reads_images_captions_and_objects(exported):
    rows = rows_of(exported / "sdd")
    tars = sorted(map(str, (exported / "tars").iterdir()))
    assert len(tars) == -(-len(rows) // 2)
    samples = list(webdataset.WebDataset(tars, shardshuffle=False))
    assert [sample["__key__"] for sample in samples] == [row.key.hex() for row in rows]
    for row, sample in zip(rows, samples, strict=True):
        about = json.loads(sample["json"])
        assert (sample["jpg"], sample["txt"].decode()) == (row.image, row.caption)
        assert (about["url"], about["width"], about["height"]) == (row.url, row.width_px, row.height_px)
        assert [each["label"] for each in about["objects"]] == [entity.label for entity in row.entities]
        for entity, found in zip(row.entities, about["objects"], strict=True):
            assert found["bbox"] == [entity.box.x0, entity.box.y0, entity.box.x1, entity.box.y1]
            expected = masks.decode(entity.mask, row.height_px, row.width_px)
            np.testing.assert_array_equal(coco.decode(found["segmentation"]), expected)


def test_a_finished_tar_is_not_written_again(exported, monkeypatch):
    rows = rows_of(exported / "sdd")
    partial = exported / ".again.partial"
    write_tar = webdataset_export._write_tar
    first = (exported / "tars" / "shard-000000.tar").read_bytes()

    def stop_at_the_second(path, *args):
        if path.name == "shard-000001.tar":
            raise KeyboardInterrupt
        write_tar(path, *args)

    monkeypatch.setattr(webdataset_export, "_write_tar", stop_at_the_second)
    with pytest.raises(KeyboardInterrupt):
        export_dataset(str(exported / "sdd"), exported / "again", ExportFormat.WEBDATASET)
    at = (partial / "shard-000000.tar").stat().st_mtime_ns
    monkeypatch.setattr(webdataset_export, "_write_tar", write_tar)
    export_dataset(str(exported / "sdd"), exported / "again", ExportFormat.WEBDATASET)
    assert (exported / "again" / "shard-000000.tar").stat().st_mtime_ns == at
    assert (exported / "again" / "shard-000000.tar").read_bytes() == first
    samples = webdataset.WebDataset(sorted(map(str, (exported / "again").iterdir())), shardshuffle=False)
    assert [sample["__key__"] for sample in samples] == [row.key.hex() for row in rows]
