"""Files in COCO's format become a finished dataset, with a verdict for each image and a reason for each lost label."""

import io
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image as Pillow
from pycocotools.coco import COCO

from labeling.audit import audit
from labeling.config import DownloadConfig, LabelingConfig
from labeling.errors import ExchangeError, ShardStale
from labeling.exchange.coco_import import CocoFiles
from labeling.exchange.export import export_dataset
from labeling.exchange.formats import ExportFormat
from labeling.exchange.import_source import import_labels
from labeling.sdd import masks
from labeling.sdd.schema import LedgerRow, SddRow
from labeling.sdd.shards import ShardStore
from labeling.source_index import SourceIndex
from tests.factories import jpeg

CAPTIONS = {1: "A Dog beside a cat.", 2: "two animals", 3: "nothing", 4: "a crowd", 5: "gone", 6: "a turn", 7: "a flip"}
SQUARE = [[4, 6, 34, 6, 34, 36, 4, 36]]


def annotation(number: int, image: int, category: int, bbox: list[float], **others: object) -> dict[str, object]:
    x, y, width, height = bbox
    polygon = [[x, y, x + width, y, x + width, y + height, x, y + height]]
    return {
        "id": number,
        "image_id": image,
        "category_id": category,
        "bbox": bbox,
        "segmentation": polygon,
        "area": width * height,
        "iscrowd": 0,
    } | others


ANNOTATIONS = [
    annotation(10, 1, 18, [4, 6, 30, 30], segmentation=SQUARE),
    annotation(11, 1, 17, [36, 4, 24, 40]),
    annotation(12, 1, 1, [0, 0, 64, 48], iscrowd=1, segmentation={"size": [48, 64], "counts": [0, 3072]}),
    annotation(13, 2, 17, [10, 10, 30, 30], segmentation={"size": [48, 64], "counts": [490, *[30, 18] * 29, 30, 1160]}),
    annotation(14, 2, 18, [40, 10, 40, 30]),
    annotation(15, 4, 1, [0, 0, 40, 40], iscrowd=1),
    annotation(16, 5, 18, [4, 6, 30, 30]),
    annotation(17, 6, 18, [4, 6, 30, 30]),
    annotation(18, 7, 18, [4, 6, 30, 30]),
]


def turned(orientation: int, size: tuple[int, int]) -> bytes:
    """A JPEG of (width, height) pixels before its EXIF orientation is applied."""
    exif = Pillow.Exif()
    exif[0x0112] = orientation
    file = io.BytesIO()
    Pillow.open(io.BytesIO(jpeg(orientation, size))).save(file, "JPEG", exif=exif)
    return file.getvalue()


def write_coco(folder: Path) -> CocoFiles:
    """Write files with COCO's own fields: image 5 is missing, 6 and 7 have an EXIF orientation."""
    (folder / "val2017").mkdir(parents=True)
    for number in (1, 2, 3, 4):
        (folder / "val2017" / f"{number:012}.jpg").write_bytes(jpeg(number))
    (folder / "val2017" / f"{6:012}.jpg").write_bytes(turned(6, (64, 48)))
    (folder / "val2017" / f"{7:012}.jpg").write_bytes(turned(3, (64, 48)))
    head = {"info": {"year": 2017, "version": "1.0"}, "licenses": [{"url": "", "id": 1, "name": "none"}]}
    images = [{"license": 1, "file_name": f"{n:012}.jpg", "height": 48, "width": 64, "id": n} for n in CAPTIONS]
    names = {1: "person", 17: "cat", 18: "dog"}
    categories = [{"supercategory": "x", "id": number, "name": name} for number, name in names.items()]
    instances = head | {"annotations": ANNOTATIONS, "images": images, "categories": categories}
    texts = [
        {"image_id": n, "id": n + 100 * k, "caption": text + "!" * k} for k in (0, 1) for n, text in CAPTIONS.items()
    ]
    (folder / "instances.json").write_text(json.dumps(instances))
    (folder / "captions.json").write_text(json.dumps(head | {"images": images, "annotations": texts}))
    return CocoFiles(folder / "instances.json", folder / "captions.json")


def config_of(root: Path, **settings: object) -> LabelingConfig:
    no_limit = {"root": str(root), "download": DownloadConfig(min_side_px=0)}
    return LabelingConfig.model_validate(no_limit | settings)


@pytest.fixture(scope="module")
def imported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with COCO's files in coco/ and the dataset made of them in sdd/."""
    folder = tmp_path_factory.mktemp("coco")
    import_labels(folder / "coco" / "val2017", write_coco(folder / "coco"), config_of(folder / "sdd"))
    return folder


def rows(root: Path, row: type, layer: str) -> dict[str, object]:
    return {found.url: found for found in ShardStore(str(root)).read(row, (layer,), "shard-00000")}


def test_every_image_ends_in_one_verdict(imported):
    ledger = rows(imported / "sdd", LedgerRow, "ledger")
    assert {url: (row.state, row.stage, row.reason) for url, row in ledger.items()} == {
        "file:000000000001.jpg": ("kept", "sdd", ""),
        "file:000000000002.jpg": ("kept", "sdd", ""),
        "file:000000000003.jpg": ("dropped", "nouns", "no_label"),
        "file:000000000004.jpg": ("dropped", "nouns", "only_refused_labels"),
        "file:000000000005.jpg": ("not_downloaded", "images", "missing_file"),
        "file:000000000006.jpg": ("dropped", "nouns", "only_refused_labels"),
        "file:000000000007.jpg": ("dropped", "entities", "turned_by_exif"),
    }
    lost = {url: [(noun.label, noun.reason) for noun in row.removed_nouns or ()] for url, row in ledger.items()}
    assert lost["file:000000000001.jpg"] == [("person", "group")]
    assert lost["file:000000000002.jpg"] == [("dog", "box_outside")]
    assert lost["file:000000000006.jpg"] == [("dog", "other_size")]


def test_labels_boxes_and_masks_are_those_that_pycocotools_reads(imported):
    coco = COCO(imported / "coco" / "instances.json")
    kept = rows(imported / "sdd", SddRow, "sdd")
    for number, expected in ((1, (10, 11)), (2, (13,))):
        row = kept[f"file:{number:012}.jpg"]
        by_label = {entity.label: entity for entity in row.entities}
        assert len(by_label) == len(expected)
        for found in coco.loadAnns(expected):
            entity = by_label[coco.cats[found["category_id"]]["name"]]
            x, y, width, height = found["bbox"]
            assert (entity.box.x0, entity.box.y0, entity.box.x1, entity.box.y1) == (x, y, x + width, y + height)
            mask = masks.decode(entity.mask, row.height_px, row.width_px)
            np.testing.assert_array_equal(mask, coco.annToMask(found))
            assert entity.mask_area_px == mask.sum()


def test_spans_are_those_of_the_labels_in_the_first_caption(imported):
    kept = rows(imported / "sdd", SddRow, "sdd")
    assert kept["file:000000000001.jpg"].caption == "A Dog beside a cat."
    spans = {e.label: (e.span_start, e.span_end) for row in kept.values() for e in row.entities if "1.jpg" in row.url}
    assert spans == {"dog": (2, 5), "cat": (15, 18)}
    (entity,) = kept["file:000000000002.jpg"].entities
    assert (entity.span_start, entity.span_end) == (0, len("two animals"))


def test_the_dataset_has_no_fault(imported):
    assert audit(str(imported / "sdd")).problems == ()


def test_a_second_import_makes_nothing(imported):
    times = {path: path.stat().st_mtime_ns for path in (imported / "sdd").glob("*/*.parquet")}
    files = CocoFiles(imported / "coco" / "instances.json", imported / "coco" / "captions.json")
    counts = import_labels(imported / "coco" / "val2017", files, config_of(imported / "sdd"))
    assert counts == {"kept": 2, "dropped": 4, "not_downloaded": 1}
    assert {path: path.stat().st_mtime_ns for path in times} == times


def test_other_labels_are_refused(imported, tmp_path):
    shutil.copytree(imported, tmp_path / "copy")
    file = tmp_path / "copy" / "coco" / "instances.json"
    file.write_text(file.read_text().replace('"name": "dog"', '"name": "wolf"'))
    files = CocoFiles(file, tmp_path / "copy" / "coco" / "captions.json")
    with pytest.raises(ShardStale, match=r"nouns/ \(1 shards\), detections/ .*labeling\.stale=rebuild"):
        import_labels(tmp_path / "copy" / "coco" / "val2017", files, config_of(tmp_path / "copy" / "sdd"))


def test_an_export_lists_the_same_objects(imported, tmp_path):
    export_dataset(str(imported / "sdd"), tmp_path / "out", ExportFormat.COCO, 0)
    before, after = COCO(imported / "coco" / "instances.json"), COCO(tmp_path / "out" / "instances.json")
    objects = {(before.cats[a["category_id"]]["name"], *a["bbox"]) for a in before.loadAnns((10, 11, 13))}
    assert {(after.cats[a["category_id"]]["name"], *a["bbox"]) for a in after.anns.values()} == objects


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"image_id": 99}, "annotation of the image 99, which the instances file does not list"),
        ({"category_id": 99}, "annotations, id 10: no category 99"),
        ({"bbox": [1, 2, 3]}, r"annotations, id 10: bbox.*"),
    ],
)
def test_an_unusable_annotation_is_named(tmp_path, change, message):
    files = write_coco(tmp_path / "coco")
    content = json.loads(files.instances.read_text())
    content["annotations"][0] |= change
    files.instances.write_text(json.dumps(content))
    with SourceIndex.open(tmp_path / "index") as index, pytest.raises(ExchangeError, match=message):
        files.fill(index)


def test_a_missing_file_is_named(tmp_path):
    (tmp_path / "images").mkdir()
    with pytest.raises(ExchangeError, match=r"none\.json cannot be read"):
        import_labels(tmp_path / "images", CocoFiles(tmp_path / "none.json"), config_of(tmp_path / "sdd"))
