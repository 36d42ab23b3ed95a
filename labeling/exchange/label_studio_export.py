"""Export for Label Studio: tasks with the entities as predictions, and the configuration of the project.

    tasks.json          tasks to import; their images are served from the folder by Label Studio's local files
    label_config.xml    the labels
    images/

https://labelstud.io/guide/predictions
"""

import hashlib
import json
from collections.abc import Iterable
from pathlib import Path
from xml.sax.saxutils import quoteattr

from labeling.exchange.examples import Examples
from labeling.exchange.export_folder import write_image
from labeling.sdd.arrow import Record
from labeling.sdd.corrections import SeenEntity
from labeling.sdd.schema import Entity, SddRow

_LOCAL_FILE = "/data/local-files/?d=images/"


def export_label_studio(examples: Examples, out: Path) -> None:
    """Write the files to the folder `out`."""
    (out / "images").mkdir(exist_ok=True)
    (out / "label_config.xml").write_text(_label_config(examples.labels()), encoding="utf-8")
    with (out / "tasks.json").open("w", encoding="utf-8") as tasks:
        for number, row in enumerate(examples.rows()):
            task = _task(row, write_image(out / "images", row))
            tasks.write((",\n" if number else "[\n") + json.dumps(task, ensure_ascii=False))
        tasks.write("\n]\n")


def region_id(entity: Entity) -> str:
    """Return the id of an entity's region: it is the same as long as label and box are."""
    seen = SeenEntity(label=entity.label, box=entity.box)
    return f"entity-{hashlib.sha256(repr(seen).encode()).hexdigest()[:12]}"


def _task(row: SddRow, file_name: str) -> Record:
    regions = [_region(entity, row) for entity in row.entities]
    return {
        "data": {"image": f"{_LOCAL_FILE}{file_name}", "caption": row.caption, "key": row.key.hex()},
        "predictions": [{"model_version": "subject-diffusion", "result": regions}],
    }


def _region(entity: Entity, row: SddRow) -> Record:
    box = entity.box
    return {
        "id": region_id(entity),
        "from_name": "label",
        "to_name": "image",
        "type": "rectanglelabels",
        "original_width": row.width_px,
        "original_height": row.height_px,
        "image_rotation": 0,
        "score": entity.score,
        "value": {
            "x": 100 * box.x0 / row.width_px,
            "y": 100 * box.y0 / row.height_px,
            "width": 100 * (box.x1 - box.x0) / row.width_px,
            "height": 100 * (box.y1 - box.y0) / row.height_px,
            "rotation": 0,
            "rectanglelabels": [entity.label],
        },
    }


def _label_config(labels: Iterable[str]) -> str:
    values = "".join(f"    <Label value={quoteattr(label)}/>\n" for label in labels)
    return (
        '<View>\n  <Image name="image" value="$image"/>\n  <Text name="caption" value="$caption"/>\n'
        f'  <RectangleLabels name="label" toName="image">\n{values}  </RectangleLabels>\n</View>\n'
    )
