"""Small files in Open Images' own formats: four images, one with a group, one with body parts alone."""

import json
from pathlib import Path

import numpy as np
from PIL import Image

from labeling.exchange.openimages_import import OpenImagesFiles
from tests.factories import jpeg

HEADER = "ImageID,Source,LabelName,Confidence,XMin,XMax,YMin,YMax,IsOccluded,IsTruncated,IsGroupOf,IsDepiction,IsInside"
MASKS = "MaskPath,ImageID,LabelName,BoxID,BoxXMin,BoxXMax,BoxYMin,BoxYMax,PredictedIoU,Clicks"
CLASSES = "LabelName,DisplayName\n/m/0bt9lr,Dog\n/m/01yrx,Cat\n/m/0dzct,Human face\n/m/01g317,Person\n"
DOG, CAT, FACE, PERSON = "/m/0bt9lr", "/m/01yrx", "/m/0dzct", "/m/01g317"
LEFT, RIGHT = (0.0625, 0.125, 0.46875, 0.875), (0.5, 0.125, 0.9375, 0.875)
BOXES = [
    ("0001eeaf4aed83f9", DOG, LEFT, 0),
    ("0001eeaf4aed83f9", CAT, RIGHT, 0),
    ("0001eeaf4aed83f9", PERSON, (0, 0, 1, 1), 1),
    ("0004886b7d043cfd", DOG, RIGHT, 0),
    ("0004886b7d043cfd", FACE, LEFT, 0),
    ("000595fe6fee6369", FACE, LEFT, 0),
    ("000595fe6fee6369", PERSON, RIGHT, 1),
    ("ffff000000000000", DOG, LEFT, 0),
]
MASKED = (0, 1, 3)
"""Rows of `BOXES` that have a mask."""
IMAGES = ("0001eeaf4aed83f9", "0004886b7d043cfd", "000595fe6fee6369", "00075905539074f2")
"""Images of the folder; the last one has no box."""


def box_line(image: str, label: str, box: tuple[float, float, float, float], group: int) -> str:
    left, top, right, bottom = box
    return f"{image},xclick,{label},1,{left},{right},{top},{bottom},0,0,{group},0,0"


def write_openimages(folder: Path) -> OpenImagesFiles:
    """Write the files. Masks are half as large as their images, as many of Open Images' are smaller."""
    for name in ("images", "masks"):
        (folder / name).mkdir(parents=True)
    for number, name in enumerate(IMAGES):
        (folder / "images" / f"{name}.jpg").write_bytes(jpeg(number))
    lines = [MASKS]
    for row in MASKED:
        image, label, (left, top, right, bottom), _ = BOXES[row]
        mask = np.zeros((24, 32), bool)
        mask[round(24 * top) : round(24 * bottom), round(32 * left) : round(32 * right)] = True
        file = f"{image}_{label[1:].replace('/', '')}_{row:08x}.png"
        Image.fromarray(mask).save(folder / "masks" / file)
        lines.append(f"{file},{image},{label},{row:08x},{left + 0.002},{right},{top},{bottom},0.9,")
    boxes = [HEADER, *(box_line(*box) for box in BOXES)]
    captions = [{"dataset_id": "open_images", "image_id": name, "caption": f"A dog, number {name}."} for name in IMAGES]
    (folder / "boxes.csv").write_text("\n".join(boxes) + "\n")
    (folder / "masks.csv").write_text("\n".join(lines) + "\n")
    (folder / "classes.csv").write_text(CLASSES)
    (folder / "captions.jsonl").write_text("\n".join(map(json.dumps, captions)) + "\n")
    return OpenImagesFiles(
        boxes=folder / "boxes.csv",
        classes=folder / "classes.csv",
        images=folder / "images",
        body_parts=frozenset({FACE}),
        masks=folder / "masks.csv",
        mask_images=folder / "masks",
        captions=folder / "captions.jsonl",
    )
