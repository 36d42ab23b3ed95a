"""Export for Hugging Face `datasets`: Parquet files with images, a dataset card and a description in Croissant.

    data/train-00000.parquet    image, caption, objects, key, url, width, height
    README.md                   the card: counts, rules, licences, limits
    croissant.json              the same for programs: https://docs.mlcommons.org/croissant/docs/croissant-spec.html

A finished Parquet file is not written again when a stopped export resumes.
"""

import json
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from labeling.exchange.card import DatasetFigures, card, croissant
from labeling.exchange.examples import Examples
from labeling.exchange.objects import objects_of
from labeling.sdd.arrow import Record
from labeling.sdd.schema import SddRow
from labeling.sdd.upright import upright_file

ROWS_PER_FILE = 1024
ROWS_PER_GROUP = 64
_OBJECT = pa.struct(
    [
        ("label", pa.string()),
        ("bbox", pa.list_(pa.float32())),
        ("score", pa.float32()),
        ("span", pa.list_(pa.int32())),
        ("segmentation", pa.struct([("size", pa.list_(pa.int32())), ("counts", pa.string())])),
    ]
)
_COLUMNS = pa.schema(
    [
        ("image", pa.struct([("bytes", pa.binary()), ("path", pa.string())])),
        ("caption", pa.string()),
        ("objects", pa.list_(_OBJECT)),
        ("key", pa.string()),
        ("url", pa.string()),
        ("width", pa.int32()),
        ("height", pa.int32()),
    ]
)


@dataclass
class _Counts:
    """Counts over the rows of an export, for its card."""

    images: int = 0
    labels: Counter[str] = field(default_factory=Counter)

    def over(self, rows: Iterator[SddRow]) -> Iterator[SddRow]:
        """Yield the rows, and count them."""
        for row in rows:
            self.images += 1
            self.labels.update(entity.label for entity in row.entities)
            yield row


def export_hugging_face(examples: Examples, out: Path, name: str, licence: str) -> None:
    """Write the files to the folder `out`.

    Args:
        examples: rows of the dataset.
        out: folder to write to.
        name: name of the dataset in its card.
        licence: identifier of the licence in the card, such as cc-by-4.0.
    """
    (out / "data").mkdir(exist_ok=True)
    counts = _Counts()
    rows, number = counts.over(examples.rows()), 0
    while first := next(rows, None):
        _write_file(out / "data" / f"train-{number:05d}.parquet", first, islice(rows, ROWS_PER_FILE - 1))
        number += 1
    figures = DatasetFigures(name, licence, counts.images, counts.labels, examples.rules)
    (out / "README.md").write_text(card(figures), encoding="utf-8")
    description = croissant(figures, sorted((out / "data").glob("*.parquet")))
    (out / "croissant.json").write_text(json.dumps(description, indent=2) + "\n", encoding="utf-8")


def _write_file(path: Path, first: SddRow, rest: Iterator[SddRow]) -> None:
    if path.exists():
        for _ in rest:
            pass
        return
    unfinished = path.with_suffix(".tmp")
    records = map(_record, _chain(first, rest))
    with pq.ParquetWriter(unfinished, _COLUMNS.with_metadata({"huggingface": json.dumps(_features())})) as writer:
        while group := list(islice(records, ROWS_PER_GROUP)):
            writer.write_table(pa.Table.from_pylist(group, schema=_COLUMNS))
    unfinished.replace(path)


def _chain(first: SddRow, rest: Iterator[SddRow]) -> Iterator[SddRow]:
    yield first
    yield from rest


def _record(row: SddRow) -> Record:
    suffix, encoded = upright_file(row.image, row.media_type)
    return {
        "image": {"bytes": encoded, "path": f"{row.key.hex()}{suffix}"},
        "caption": row.caption,
        "objects": objects_of(row),
        "key": row.key.hex(),
        "url": row.url,
        "width": row.width_px,
        "height": row.height_px,
    }


def _features() -> Record:
    """Return the columns as `datasets` describes them: a column `image` is decoded when it is read."""
    return {"info": {"features": {column.name: _feature(column.name, column.type) for column in _COLUMNS}}}


def _feature(name: str, kind: pa.DataType) -> object:
    if name == "image":
        return {"_type": "Image"}
    if pa.types.is_list(kind):
        return [_feature("", kind.value_type)]
    if pa.types.is_struct(kind):
        return {part.name: _feature(part.name, part.type) for part in kind}
    return {"dtype": {"float": "float32"}.get(str(kind), str(kind)), "_type": "Value"}
