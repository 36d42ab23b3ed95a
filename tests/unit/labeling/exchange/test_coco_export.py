"""COCO's own reader restores boxes, masks, labels and captions from an export."""

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from pycocotools.coco import COCO

from labeling.errors import ExchangeError
from labeling.exchange.export import export_dataset
from labeling.exchange.export_folder import export_folder
from labeling.exchange.formats import ExportFormat
from labeling.sdd import masks
from labeling.sdd.schema import SddRow
from labeling.sdd.shards import ShardStore
from tests.datasets import dataset_of_two
from tests.factories import entity, finished, jpeg, sdd_row


def rows_of(root: Path) -> list[SddRow]:
    store = ShardStore(str(root))
    return [row for shard in store.shards("sdd") for row in store.read(SddRow, ("sdd",), shard)]


def sideways_jpeg() -> bytes:
    """A JPEG of 48 x 64 pixels that its EXIF orientation turns to 64 x 48."""
    exif = Image.Exif()
    exif[0x0112] = 6
    file = io.BytesIO()
    Image.open(io.BytesIO(jpeg(1, (48, 64)))).save(file, "JPEG", exif=exif)
    return file.getvalue()


def test_pycocotools_reads_back_every_entity(tmp_path):
    rows = rows_of(dataset_of_two(tmp_path / "sdd"))
    assert export_dataset(str(tmp_path / "sdd"), tmp_path / "coco", ExportFormat.COCO, 0) == len(rows)
    coco = COCO(tmp_path / "coco" / "instances.json")
    assert len(coco.imgs) == len(rows)
    for row, image in zip(rows, coco.imgs.values(), strict=True):
        assert (image["sdd_key"], image["width"], image["height"]) == (row.key.hex(), row.width_px, row.height_px)
        assert (tmp_path / "coco" / "images" / image["file_name"]).read_bytes() == row.image
        annotations = coco.imgToAnns[image["id"]]
        assert len(annotations) == len(row.entities)
        for subject, annotation in zip(row.entities, annotations, strict=True):
            x, y, width, height = annotation["bbox"]
            assert coco.cats[annotation["category_id"]]["name"] == subject.label
            assert (x, y, x + width, y + height) == pytest.approx(
                (subject.box.x0, subject.box.y0, subject.box.x1, subject.box.y1)
            )
            mask = masks.decode(subject.mask, row.height_px, row.width_px)
            np.testing.assert_array_equal(coco.annToMask(annotation), mask)
            assert annotation["area"] == mask.sum()


def test_captions_are_those_of_the_images(tmp_path):
    rows = rows_of(dataset_of_two(tmp_path / "sdd"))
    export_dataset(str(tmp_path / "sdd"), tmp_path / "coco", ExportFormat.COCO, 0)
    coco = COCO(tmp_path / "coco" / "captions.json")
    captions = {coco.imgs[number]["sdd_key"]: found[0]["caption"] for number, found in coco.imgToAnns.items()}
    assert captions == {row.key.hex(): row.caption for row in rows}


def test_an_image_with_an_orientation_is_written_upright(tmp_path):
    finished(tmp_path / "sdd", [sdd_row(1, [entity((8, 8, 32, 40))], sideways_jpeg())])
    export_dataset(str(tmp_path / "sdd"), tmp_path / "coco", ExportFormat.COCO, 0)
    (file,) = (tmp_path / "coco" / "images").iterdir()
    with Image.open(file) as image:
        assert image.size == (64, 48)
        assert 0x0112 not in image.getexif()


def stop_after(out: Path, identity: str, file: Path) -> None:
    """Begin an export that stops after it has written `file`."""
    with export_folder(out, identity) as folder:
        (folder / file.name).write_bytes(file.read_bytes())
        raise KeyboardInterrupt


def test_a_stopped_export_resumes_and_leaves_nothing_else(tmp_path):
    (tmp_path / "1.jpg").write_bytes(jpeg())
    out = tmp_path / "coco"
    with pytest.raises(KeyboardInterrupt):
        stop_after(out, "half", tmp_path / "1.jpg")
    assert not out.exists()
    with export_folder(out, "half") as folder:
        assert (folder / "1.jpg").read_bytes() == jpeg()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["1.jpg", "coco"]
    assert [path.name for path in out.iterdir()] == ["1.jpg"]


def test_the_remains_of_another_export_are_removed(tmp_path):
    (tmp_path / "1.jpg").write_bytes(jpeg())
    with pytest.raises(KeyboardInterrupt):
        stop_after(tmp_path / "coco", "of another dataset", tmp_path / "1.jpg")
    dataset_of_two(tmp_path / "sdd")
    export_dataset(str(tmp_path / "sdd"), tmp_path / "coco", ExportFormat.COCO, 0)
    assert sorted(path.name for path in (tmp_path / "coco").iterdir()) == ["captions.json", "images", "instances.json"]


def test_an_existing_folder_is_refused(tmp_path):
    dataset_of_two(tmp_path / "sdd")
    (tmp_path / "coco").mkdir()
    with pytest.raises(ExchangeError, match="coco exists: give the name of a new folder"):
        export_dataset(str(tmp_path / "sdd"), tmp_path / "coco", ExportFormat.COCO, 0)


def test_a_dataset_without_images_is_refused(tmp_path):
    with pytest.raises(ExchangeError, match="holds no images"):
        export_dataset(str(tmp_path / "sdd"), tmp_path / "coco", ExportFormat.COCO, 0)
