"""Arrow schemas follow from the row classes; the golden file pins what they are."""

import io
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from labeling.sdd.arrow import (
    Float32,
    Int32,
    Label,
    LargeBytes,
    dictionary_paths,
    leaf_paths,
    names_of,
    record_of,
    row_of,
    schema_of,
)
from labeling.sdd.schema import (
    VERSION,
    Caption,
    Detections,
    Entities,
    Image,
    LedgerRow,
    ListedUrl,
    Nouns,
    SddRow,
    State,
    Verdict,
)
from labeling.sdd.shards import outcome_schema_of

GOLDEN = Path(__file__).parents[3] / "golden" / "sdd_schema.txt"
FILES = {
    "urls": schema_of(ListedUrl),
    "images": outcome_schema_of(Image),
    "captions": outcome_schema_of(Caption),
    "nouns": outcome_schema_of(Nouns),
    "detections": outcome_schema_of(Detections),
    "entities": outcome_schema_of(Entities),
    "sdd": schema_of(SddRow),
    "ledger": schema_of(LedgerRow),
}


def rendered() -> str:
    """Every file's schema in full, nested types indented; what pyarrow prints of a schema is cut short."""
    lines = [f"version {VERSION}"]
    for layer, schema in FILES.items():
        lines += ["", f"{layer}/", *(line for field in schema for line in _field(field, 1))]
    return "\n".join(lines) + "\n"


def _field(field: pa.Field, depth: int) -> list[str]:
    kind = field.type
    inner = [kind.value_field] if pa.types.is_list(kind) else list(kind) if pa.types.is_struct(kind) else []
    name = "list" if pa.types.is_list(kind) else "struct" if pa.types.is_struct(kind) else str(kind)
    line = f"{'  ' * depth}{field.name}: {name}{'' if field.nullable else ' not null'}"
    return [line, *(text for f in inner for text in _field(f, depth + 1))]


def test_the_schema_is_the_recorded_one():
    assert rendered() == GOLDEN.read_text(), (
        "The format of the dataset has changed. If that is meant: raise VERSION in labeling/sdd/schema.py and run "
        "python -m tests.unit.labeling.sdd.test_arrow"
    )


def test_pictures_may_fill_more_than_2_gib_of_a_column():
    assert FILES["images"].field("image").type == FILES["sdd"].field("image").type == pa.large_binary()


@dataclass(frozen=True)
class Point:
    x: Float32
    name: Label


@dataclass(frozen=True)
class Shape:
    key: bytes
    points: tuple[Point, ...]
    centre: Point | None
    tags: tuple[Label, ...]
    width_px: Int32 | None
    filled: bool
    pixels: LargeBytes


SHAPE = Shape(b"k", (Point(1.5, "a"), Point(2.5, "b")), None, ("t",), None, True, b"pixels")


def test_nested_rows_come_back_as_they_were():
    table = pa.Table.from_pylist([record_of(SHAPE)], schema=schema_of(Shape))
    assert [row_of(Shape, record) for record in table.to_pylist()] == [SHAPE]
    named = Shape(**{**vars(SHAPE), "centre": Point(0.5, "c"), "points": ()})
    table = pa.Table.from_pylist([record_of(named)], schema=schema_of(Shape))
    assert [row_of(Shape, record) for record in table.to_pylist()] == [named]


def test_only_what_may_be_missing_is_nullable():
    schema = schema_of(Shape)
    assert {field.name for field in schema if field.nullable} == {"centre", "width_px"}
    assert not schema.field("points").type.value_field.nullable


@pytest.mark.parametrize("missing", [{"pixels": None}, {"tags": [None]}, {"points": [{"x": None, "name": "a"}]}])
def test_a_missing_value_is_refused_where_none_may_be(missing):
    table = pa.Table.from_pylist([record_of(SHAPE) | missing], schema=schema_of(Shape))
    with pytest.raises(pa.ArrowInvalid, match="non-nullable"):
        pq.write_table(table, io.BytesIO())


def test_paths_name_every_leaf_and_every_label():
    leaves = leaf_paths(schema_of(Shape))
    assert leaves == [
        "key",
        "points.list.element.x",
        "points.list.element.name",
        "centre.x",
        "centre.name",
        "tags.list.element",
        "width_px",
        "filled",
        "pixels",
    ]
    assert dictionary_paths(Shape) == ("points.list.element.name", "centre.name", "tags.list.element")


@dataclass
class Vague:
    count: int


def test_a_number_without_a_width_is_refused():
    with pytest.raises(TypeError, match=r"int.*Int32"):
        schema_of(Vague)


def test_a_row_takes_its_own_columns_only():
    assert names_of(Point) == ("x", "name")
    assert row_of(Point, {"x": 1.0, "name": "a", "colour": "red"}) == Point(1.0, "a")
    with pytest.raises(KeyError):
        row_of(Point, {"x": 1.0})


def test_bytes_are_passed_on_and_never_copied():
    assert record_of(SHAPE)["pixels"] is SHAPE.pixels


def test_a_state_is_written_as_its_word():
    table = pa.Table.from_pylist([record_of(Verdict(state=State.DROPPED, reason="r"))], schema=schema_of(Verdict))
    assert table.to_pylist() == [{"state": "dropped", "reason": "r", "detail": ""}]


if __name__ == "__main__":
    GOLDEN.write_text(rendered())
