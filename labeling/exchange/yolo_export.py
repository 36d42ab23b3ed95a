"""Export in the format of Ultralytics YOLO: `detect/` with boxes and `segment/` with outlines, each with a data.yaml.

A label file has one line per entity: the number of its class, then the box as centre and size, or the outline as
points, all as shares of the image's sides. The two folders share their images by hard links.
https://docs.ultralytics.com/datasets/segment/
"""

import json
import os
import shutil
from collections.abc import Mapping
from functools import reduce
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from labeling.exchange.examples import Examples
from labeling.exchange.export_folder import write_image
from labeling.sdd import masks
from labeling.sdd.schema import Entity, SddRow

_DETECT, _SEGMENT = "detect", "segment"
_SPLITS = ("train", "val")


def export_yolo(examples: Examples, out: Path, val_share: float) -> None:
    """Write the files of YOLO to the folder `out`.

    Args:
        examples: rows of the dataset.
        out: folder to write to.
        val_share: share of the images in the split `val`, 0 to 1; the rest is in `train`. The key decides, so an image
            stays in its split when the dataset grows.
    """
    classes = {label: number for number, label in enumerate(examples.labels())}
    for task in (_DETECT, _SEGMENT):
        for folder in ("images", "labels"):
            for split in _SPLITS:
                (out / task / folder / split).mkdir(parents=True, exist_ok=True)
    for row in examples.rows():
        split = _SPLITS[is_validation(row.key, val_share)]
        name = write_image(out / _DETECT / "images" / split, row)
        _share(out / _DETECT / "images" / split / name, out / _SEGMENT / "images" / split / name)
        text = Path(name).with_suffix(".txt")
        (out / _DETECT / "labels" / split / text).write_text(_box_lines(row, classes))
        (out / _SEGMENT / "labels" / split / text).write_text(_outline_lines(row, classes))
    for task in (_DETECT, _SEGMENT):
        (out / task / "data.yaml").write_text(_data_yaml(classes), encoding="utf-8")


def is_validation(key: bytes, share: float) -> bool:
    """Return whether an image belongs to the share of a dataset that its key selects for validation."""
    return int.from_bytes(key[-8:], "big") < share * 2**64


def outline(entity: Entity) -> NDArray[np.float64]:
    """Return the outline of an entity's mask as one polygon [n, 2] of x and y, in pixels.

    Points are centres of pixels, so that filling the polygon restores the mask. Its parts are joined by bridges without
    width, as YOLO's own converter of COCO does; holes are filled.
    """
    crop = masks.decode_crop(entity.mask).astype(np.uint8)
    parts, _ = cv2.findContours(crop, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_SIMPLE)
    points: NDArray[np.int32] = reduce(_bridge, sorted((part[:, 0] for part in parts), key=len, reverse=True))
    return np.add(points, (entity.mask.x0 + 0.5, entity.mask.y0 + 0.5), dtype=np.float64)


def _bridge(first: NDArray[np.int32], second: NDArray[np.int32]) -> NDArray[np.int32]:
    """Join two polygons at their nearest points."""
    a, b = first.astype(np.float32), second.astype(np.float32)
    distances = (a**2).sum(axis=1)[:, None] + (b**2).sum(axis=1) - 2 * a @ b.T  # squared; one matrix, not three
    i, j = np.unravel_index(int(distances.argmin()), distances.shape)
    return np.concatenate([first[: i + 1], second[j:], second[: j + 1], first[i:]])


def _box_lines(row: SddRow, classes: Mapping[str, int]) -> str:
    return "".join(f"{classes[e.label]} {_numbers(_centre_and_size(e, row))}\n" for e in row.entities)


def _outline_lines(row: SddRow, classes: Mapping[str, int]) -> str:
    sides = (row.width_px, row.height_px)
    return "".join(f"{classes[e.label]} {_numbers((outline(e) / sides).ravel())}\n" for e in row.entities)


def _centre_and_size(entity: Entity, row: SddRow) -> NDArray[np.float64]:
    box = entity.box
    centre_and_size = ((box.x0 + box.x1) / 2, (box.y0 + box.y1) / 2, box.x1 - box.x0, box.y1 - box.y0)
    return np.array(centre_and_size) / (row.width_px, row.height_px, row.width_px, row.height_px)


def _numbers(values: NDArray[np.float64]) -> str:
    return " ".join(f"{value:.6f}" for value in values)


def _data_yaml(classes: Mapping[str, int]) -> str:
    """Return the description of the folder. A JSON string is a YAML string."""
    names = "".join(f"  {number}: {json.dumps(label, ensure_ascii=False)}\n" for label, number in classes.items())
    return f"train: images/train\nval: images/val\nnames:\n{names}"


def _share(existing: Path, name: Path) -> None:
    name.unlink(missing_ok=True)
    try:
        os.link(existing, name)
    except OSError:  # a file system without hard links
        shutil.copyfile(existing, name)
