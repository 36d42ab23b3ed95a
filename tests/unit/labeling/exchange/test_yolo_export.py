"""YOLO's files: lines of boxes and outlines, read as Ultralytics reads them."""

from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from labeling.exchange.export import export_dataset
from labeling.exchange.formats import ExportFormat
from labeling.exchange.yolo_export import is_validation, outline
from labeling.sdd import masks
from labeling.sdd.schema import Entity
from tests.datasets import dataset_of_two
from tests.factories import entity
from tests.unit.labeling.exchange.test_coco_export import rows_of


def lines(file: Path) -> list[tuple[int, np.ndarray]]:
    """Read a label file: the class and the numbers of each line."""
    words = [line.split() for line in file.read_text().splitlines()]
    return [(int(number), np.array(values, float)) for number, *values in words]


def filled(polygon: np.ndarray, width: int, height: int) -> np.ndarray:
    """Fill a polygon as Ultralytics does: truncated to whole pixels."""
    mask = np.zeros((height, width), np.uint8)
    cv2.fillPoly(mask, [polygon.astype(np.int32)], 1)
    return mask.astype(bool)


def with_mask(mask: np.ndarray) -> Entity:
    return replace(entity((0, 0, 10, 10)), mask=masks.encode(mask))


@pytest.fixture
def exported(tmp_path):
    dataset_of_two(tmp_path / "sdd")
    export_dataset(str(tmp_path / "sdd"), tmp_path / "yolo", ExportFormat.YOLO, 0.5)
    return tmp_path


def test_boxes_and_outlines_restore_the_entities(exported):
    names = yaml.safe_load((exported / "yolo" / "detect" / "data.yaml").read_text())["names"]
    assert names == {0: "cat", 1: "dog"}
    for row in rows_of(exported / "sdd"):
        split = "val" if is_validation(row.key, 0.5) else "train"
        text = f"labels/{split}/{row.key.hex()}.txt"
        boxes, outlines = lines(exported / "yolo" / "detect" / text), lines(exported / "yolo" / "segment" / text)
        assert [names[number] for number, _ in boxes] == [e.label for e in row.entities]
        assert [number for number, _ in boxes] == [number for number, _ in outlines]
        sides = np.array([row.width_px, row.height_px])
        for subject, (_, box), (_, points) in zip(row.entities, boxes, outlines, strict=True):
            centre, size = box[:2] * sides, box[2:] * sides
            expected = (subject.box.x0, subject.box.y0, subject.box.x1, subject.box.y1)
            assert (*(centre - size / 2), *(centre + size / 2)) == pytest.approx(expected, abs=1e-3)
            mask = masks.decode(subject.mask, row.height_px, row.width_px)
            np.testing.assert_array_equal(filled(points.reshape(-1, 2) * sides, *sides), mask)


def test_each_image_has_its_label_file_in_both_folders(exported):
    for task in ("detect", "segment"):
        images = {
            path.relative_to(exported / "yolo" / task / "images").with_suffix("")
            for path in (exported / "yolo" / task / "images").rglob("*.jpg")
        }
        texts = {
            path.relative_to(exported / "yolo" / task / "labels").with_suffix("")
            for path in (exported / "yolo" / task / "labels").rglob("*.txt")
        }
        assert images == texts
        assert len(images) == len(rows_of(exported / "sdd"))


def test_parts_of_a_mask_become_one_polygon(tmp_path):
    mask = np.zeros((40, 60), bool)
    mask[5:15, 5:15] = mask[20:30, 40:55] = mask[33:36, 2:6] = True
    whole = filled(outline(with_mask(mask)), 60, 40)
    assert whole[mask].all()
    assert (whole & ~mask).sum() < 60  # the bridges are one pixel wide when they are filled


@given(st.integers(0, 20), st.integers(0, 20), st.integers(1, 30), st.integers(1, 30))
@settings(max_examples=30, deadline=None)
def test_a_rectangle_of_any_size_is_restored(x, y, width, height):
    mask = np.zeros((60, 60), bool)
    mask[y : y + height, x : x + width] = True
    np.testing.assert_array_equal(filled(outline(with_mask(mask)), 60, 60), mask)


def test_the_share_of_validation_is_kept():
    keys = [np.random.default_rng(n).bytes(16) for n in range(2000)]
    chosen = [key for key in keys if is_validation(key, 0.2)]
    assert 300 < len(chosen) < 500
    assert all(is_validation(key, 0.3) for key in chosen)
    assert not any(is_validation(key, 0.0) for key in keys)
    assert all(is_validation(key, 1.0) for key in keys)
