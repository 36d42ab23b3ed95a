"""The entities of an image as JSON: `objects` of the exports in WebDataset and Hugging Face `datasets`."""

from typing import TypedDict

import numpy as np
from pycocotools import mask as coco

from labeling.sdd import masks
from labeling.sdd.schema import Entity, SddRow


class WholeMask(TypedDict):
    """Mask of a whole image in COCO's compressed run lengths, for `pycocotools.mask.decode`."""

    size: list[int]
    """Height and width in pixels."""
    counts: str


class Object(TypedDict):
    """An entity."""

    label: str
    bbox: list[float]
    """x0, y0, x1, y1 in pixels of the upright image."""
    score: float
    span: list[int]
    """Begin and end of the label in the caption, in characters."""
    segmentation: WholeMask


def objects_of(row: SddRow) -> list[Object]:
    """Return the entities of a row."""
    return [
        Object(
            label=entity.label,
            bbox=[entity.box.x0, entity.box.y0, entity.box.x1, entity.box.y1],
            score=entity.score,
            span=[entity.span_start, entity.span_end],
            segmentation=whole_mask(entity, row),
        )
        for entity in row.entities
    ]


def whole_mask(entity: Entity, row: SddRow) -> WholeMask:
    """Return the mask of an entity in its image."""
    pixels = masks.decode(entity.mask, row.height_px, row.width_px)
    encoded = coco.encode(np.asfortranarray(pixels, dtype=np.uint8))
    return WholeMask(size=[row.height_px, row.width_px], counts=encoded["counts"].decode("ascii"))
