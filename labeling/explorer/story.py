"""The story of an image: what each stage found, which rules its candidates break, and what people corrected."""

from collections.abc import Mapping

import cv2
import numpy as np

from labeling.errors import ExplorerError
from labeling.explorer.browse import Place
from labeling.sdd import masks
from labeling.sdd.arrow import Record, row_of
from labeling.sdd.schema import Layer, Mask
from labeling.sdd.shards import ShardStore

_PIXELS = frozenset({"image"})


def story(store: ShardStore, place: Place) -> dict[str, Record]:
    """Return the rows of an image by layer, without pixels. Masks have an `outline`, a path of SVG, instead of counts.

    Raises:
        ExplorerError: the dataset has no such image.
        ShardCorrupt: a file is damaged.
    """
    rows = {layer.value: row for layer in Layer if (row := read_row(store, layer, place)) is not None}
    if Layer.LEDGER not in rows:
        raise ExplorerError(f"{Layer.LEDGER}/ has no image {place.key.hex()} in {place.shard}")
    for entity in rows.get(Layer.SDD, {}).get("entities", ()):
        entity["mask"] = _with_outline(entity["mask"])
    for candidate in rows.get(Layer.ENTITIES, {}).get("candidates") or ():
        if candidate["segment"] is not None:
            candidate["segment"]["mask"] = _with_outline(candidate["segment"]["mask"])
    return rows


def read_row(store: ShardStore, layer: str, place: Place) -> Record | None:
    """Return the row of an image in a layer, without pixels; None if the layer lacks it.

    Raises:
        ShardCorrupt: the file is damaged.
    """
    try:
        with store.open_file(layer, place.shard) as file:
            columns = [name for name in file.schema_arrow.names if name not in _PIXELS]
            for number in range(file.num_row_groups):
                keys = file.read_row_group(number, columns=["key"])["key"].to_pylist()
                if place.key in keys:
                    group = file.read_row_group(number, columns=columns)
                    row: Record = group.slice(keys.index(place.key), 1).to_pylist()[0]
                    return row
    except FileNotFoundError:
        pass
    return None


def outline(mask: Mask) -> str:
    """Return the outline of a mask as a path of SVG in pixels of the image; holes are parts of the path.

    The path runs along the outer edges of pixels, so a filled path covers the mask up to half a pixel.
    """
    crop = masks.decode_crop(mask).astype(np.uint8)
    doubled = np.pad(crop.repeat(2, axis=0).repeat(2, axis=1), 1)
    contours, _ = cv2.findContours(doubled, cv2.RETR_CCOMP, cv2.CHAIN_APPROX_SIMPLE)
    return " ".join(_path(contour.reshape(-1, 2), mask) for contour in contours if len(contour) > 2)


def _path(points: np.ndarray, mask: Mask) -> str:
    shifted = (points - 1) / 2 + (mask.x0 + 0.25, mask.y0 + 0.25)
    return "M" + "L".join(f"{x:.1f} {y:.1f}" for x, y in shifted) + "Z"


def _with_outline(mask: Record) -> Record:
    return {"outline": outline(row_of(Mask, mask))}


def json_values(value: object) -> object:
    """Return a value of a row as JSON has it: bytes as hexadecimal digits, numbers that JSON lacks as None."""
    if isinstance(value, bytes):
        return value.hex()
    if isinstance(value, float) and not np.isfinite(value):
        return None
    if isinstance(value, Mapping):
        return {str(key): json_values(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [json_values(each) for each in value]
    return value if isinstance(value, str | int | float | bool | None) else str(value)
