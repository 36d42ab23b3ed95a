"""Export in the format of COCO: `instances.json` with masks, `captions.json` and `images/`.

Masks are run lengths of the whole image, as in COCO's results: polygons would lose pixels. Beside COCO's fields, images
have the `sdd_key` of their row and annotations the `score` of the detector. https://cocodataset.org/#format-data
"""

import json
from collections.abc import Iterable, Mapping
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import IO, Self

from labeling.exchange.examples import Examples
from labeling.exchange.export_folder import write_image
from labeling.exchange.objects import whole_mask
from labeling.sdd.arrow import Record
from labeling.sdd.schema import Entity, SddRow

_INFO: Record = {"description": "Exported from a dataset in the format of Subject-Diffusion", "version": "1.0"}


class JsonLists:
    """A JSON file with an object of lists that grow one item at a time, so that they need no memory.

    Args:
        path: path of the file.
        head: entries of the object before the lists.
        names: names of the lists.
    """

    def __init__(self, path: Path, head: Mapping[str, object], names: Iterable[str]) -> None:
        self._path, self._head = path, dict(head)
        self._parts = {name: path.with_name(f"{path.name}.{name}.tmp") for name in names}
        self._files: dict[str, IO[str]] = {}

    def __enter__(self) -> Self:
        self._files = {name: part.open("w", encoding="utf-8") for name, part in self._parts.items()}
        return self

    def add(self, name: str, item: object) -> None:
        """Append an item to a list."""
        self._files[name].write(json.dumps(item, ensure_ascii=False) + "\n")

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        for file in self._files.values():
            file.close()
        if error is None:
            self._join()
        for part in self._parts.values():
            part.unlink(missing_ok=True)

    def _join(self) -> None:
        with self._path.open("w", encoding="utf-8") as whole:
            whole.write(json.dumps(self._head, ensure_ascii=False).removesuffix("}"))
            for name, part in self._parts.items():
                whole.write(f',\n"{name}": [\n')
                with part.open(encoding="utf-8") as lines:
                    for number, line in enumerate(lines):
                        whole.write(",\n" * (number > 0) + line.rstrip("\n"))
                whole.write("\n]")
            whole.write("}\n")


def export_coco(examples: Examples, out: Path) -> None:
    """Write the files of COCO to the folder `out`."""
    (out / "images").mkdir(exist_ok=True)
    categories = {label: number for number, label in enumerate(examples.labels(), start=1)}
    described = [{"id": number, "name": label, "supercategory": label} for label, number in categories.items()]
    head = {"info": _INFO, "licenses": []}
    lists = ("images", "annotations")
    with ExitStack() as files:
        instances = files.enter_context(JsonLists(out / "instances.json", head | {"categories": described}, lists))
        captions = files.enter_context(JsonLists(out / "captions.json", head, lists))
        entities = 0
        for number, row in enumerate(examples.rows(), start=1):
            image = _image(row, number, write_image(out / "images", row))
            instances.add("images", image)
            captions.add("images", image)
            captions.add("annotations", {"id": number, "image_id": number, "caption": row.caption})
            for entity in row.entities:
                entities += 1
                ids = {"id": entities, "image_id": number, "category_id": categories[entity.label]}
                instances.add("annotations", ids | _annotation(entity, row))


def _image(row: SddRow, number: int, file_name: str) -> Record:
    return {
        "id": number,
        "file_name": file_name,
        "width": row.width_px,
        "height": row.height_px,
        "coco_url": row.url,
        "sdd_key": row.key.hex(),
    }


def _annotation(entity: Entity, row: SddRow) -> Record:
    box = entity.box
    return {
        "segmentation": whole_mask(entity, row),
        "area": entity.mask_area_px,
        "bbox": [box.x0, box.y0, box.x1 - box.x0, box.y1 - box.y0],
        "iscrowd": 0,
        "score": entity.score,
    }
