"""Open Images' files become labels, without groups and parts of the human body (rule 7 of App. B.1)."""

import logging
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from upath import UPath

from evaluation.benchmarks.openimages import body_parts
from labeling.errors import ExchangeError
from labeling.exchange.import_source import _make_index, list_path
from labeling.exchange.labels import GivenLabel, mask_of, place
from labeling.exchange.openimages_import import OpenImagesFiles, class_names
from labeling.sdd.removed import Removal, write_removal
from labeling.sdd.shards import ShardStore
from labeling.source_index import SourceIndex
from tests.factories import jpeg
from tests.openimages_files import BOXES, CAT, FACE, IMAGES, MASKED, box_line, write_openimages


def labels_of(files: OpenImagesFiles, folder: Path) -> dict[str, list[GivenLabel]]:
    """Return the labels of each image of the folder."""
    with SourceIndex.open(folder / "index") as index:
        files.fill(index)
        return {n: [GivenLabel.model_validate_json(text) for text in index.labels(f"file:{n}.jpg")] for n in IMAGES}


def test_rule_7_leaves_out_groups_and_body_parts(tmp_path):
    labels = labels_of(write_openimages(tmp_path), tmp_path)
    assert {name: [(label.label, label.refusal) for label in found] for name, found in labels.items()} == {
        IMAGES[0]: [("dog", ""), ("cat", ""), ("person", "group")],
        IMAGES[1]: [("dog", ""), ("human face", "body_part")],
        IMAGES[2]: [("human face", "body_part"), ("person", "group")],
        IMAGES[3]: [],
    }


def test_body_parts_are_those_of_the_hierarchy():
    assert len(body_parts()) == 14
    assert FACE in body_parts()
    assert CAT not in body_parts()


def test_each_mask_belongs_to_its_box(tmp_path):
    labels = labels_of(write_openimages(tmp_path), tmp_path)
    found = [*labels[IMAGES[0]][:2], labels[IMAGES[1]][0]]
    for label, row in zip(found, MASKED, strict=True):
        left, top, right, bottom = BOXES[row][2]
        expected = np.zeros((48, 64), bool)
        expected[round(48 * top) : round(48 * bottom), round(64 * left) : round(64 * right)] = True
        np.testing.assert_array_equal(mask_of(label, 64, 48), expected)
        assert place(label, 64, 48).box.x0 == 64 * left


def test_a_mask_without_a_box_is_a_label(tmp_path):
    files = write_openimages(tmp_path)
    lines = files.boxes.read_text().splitlines()
    files.boxes.write_text("\n".join(line for line in lines if CAT not in line) + "\n")
    found = labels_of(files, tmp_path)[IMAGES[0]]
    assert [(label.label, label.mask_file is None) for label in found] == [
        ("dog", False),
        ("person", True),
        ("cat", False),
    ]


def test_rows_about_absent_images_are_counted(tmp_path, caplog):
    files = write_openimages(tmp_path)
    with caplog.at_level(logging.WARNING):
        labels_of(files, tmp_path)
    assert files.skipped == {str(files.boxes): 1}
    assert f"{files.boxes}: 1 rows are about images that {files.images} does not hold" in caplog.text


def test_an_image_that_is_added_later_is_listed(tmp_path):
    files = write_openimages(tmp_path / "files")
    root = UPath(tmp_path / "sdd")
    index = tmp_path / "sdd" / "index.sqlite"

    def listed() -> set[str]:
        _make_index(index, f"files {files.listing()}", files, root)
        return set(pq.read_table(str(list_path(root)))["URL"].to_pylist())

    assert listed() == {f"file:{name}.jpg" for name in IMAGES}
    made = index.stat().st_ino
    listed()
    assert index.stat().st_ino == made
    (files.images / "0007.jpg").write_bytes(jpeg(7))
    assert listed() == {f"file:{name}.jpg" for name in (*IMAGES, "0007")}


def test_an_index_that_is_made_again_has_no_labels_of_removed_images(tmp_path):
    files, root = write_openimages(tmp_path / "files"), UPath(tmp_path / "sdd")
    url = f"file:{IMAGES[0]}.jpg"
    write_removal(ShardStore(str(root)), "asked", Removal(made_at="2026-11-30T12:00:00", urls=(url,)))
    _make_index(tmp_path / "sdd" / "index.sqlite", "files", files, root)
    index = SourceIndex.open_to_read(tmp_path / "sdd" / "index.sqlite")
    assert index.labels(url) == []
    assert index.labels(f"file:{IMAGES[1]}.jpg")
    texts = {row["URL"]: row["TEXT"] for row in pq.read_table(str(list_path(root))).to_pylist()}
    assert texts[url] is None
    assert texts[f"file:{IMAGES[1]}.jpg"]


def test_captions_are_those_of_the_narratives(tmp_path):
    with SourceIndex.open(tmp_path / "index") as index, (tmp_path / "list").open("wb") as file:
        write_openimages(tmp_path).fill(index)
        index.write_list(file)
    captions = {row["URL"]: row["TEXT"] for row in pq.read_table(tmp_path / "list").to_pylist()}
    assert captions == {f"file:{name}.jpg": f"A dog, number {name}." for name in IMAGES}


def test_classes_may_have_no_header(tmp_path):
    (tmp_path / "classes.csv").write_text("/m/01yrx,Cat\n/m/0dzct,Human  face\n")
    assert class_names(tmp_path / "classes.csv") == {CAT: "cat", FACE: "human face"}


@pytest.mark.parametrize(
    ("file", "line", "message"),
    [
        (
            "boxes.csv",
            box_line(IMAGES[0], "/m/none", (0, 0, 1, 1), 0),
            r"row 10: LabelName '/m/none' is not in .*classes",
        ),
        (
            "boxes.csv",
            f"{IMAGES[0]},x,{CAT},1,left,1,0,1,0,0,0,0,0",
            "row 10: XMin, YMin, XMax, YMax: could not convert",
        ),
        ("boxes.csv", f"{IMAGES[0]},x", "row 10: 2 values for 13 columns"),
        ("captions.jsonl", '{"image_id": 7, "caption": ""}', "row 5: image_id or caption is no string"),
        ("classes.csv", "Cat", "is not a list of classes such as /m/0342h,Guitar"),
    ],
)
def test_an_unusable_row_is_named(tmp_path, file, line, message):
    files = write_openimages(tmp_path)
    with (tmp_path / file).open("a") as text:
        text.write(line + "\n")
    with pytest.raises(ExchangeError, match=message):
        labels_of(files, tmp_path)


def test_another_file_is_refused(tmp_path):
    files = write_openimages(tmp_path)
    with pytest.raises(ExchangeError, match=r"masks\.csv has no column XMin, YMin, XMax, YMax, IsGroupOf"):
        labels_of(replace(files, boxes=files.masks), tmp_path)
