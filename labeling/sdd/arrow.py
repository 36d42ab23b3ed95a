"""Arrow schemas from dataclasses, so that a row is described once, in Python."""

import types
from collections.abc import Iterable, Sequence
from dataclasses import fields, is_dataclass
from typing import Annotated, Any, TypeVar, Union, get_args, get_origin, get_type_hints

import pyarrow as pa

R = TypeVar("R")

Int16 = Annotated[int, pa.int16()]
Int32 = Annotated[int, pa.int32()]
Int64 = Annotated[int, pa.int64()]
Float32 = Annotated[float, pa.float32()]
Key = Annotated[bytes, pa.binary(16)]
LargeBytes = Annotated[bytes, pa.large_binary()]
Sha256 = Annotated[bytes, pa.binary(32)]
Label = Annotated[str, pa.string(), "dictionary"]
"""A string that repeats: dictionary-encoded in the file, an ordinary string in memory."""
_PLAIN: dict[type, pa.DataType] = {str: pa.string(), bytes: pa.binary(), bool: pa.bool_()}


def schema_of(row: type) -> pa.Schema:
    """The Arrow schema of a dataclass: one column a field, in field order.

    Raises:
        TypeError: a field's type has no Arrow form here (bare `int` and `float` have none: say the width).
    """
    return pa.schema(_fields_of(row))


def table_of(rows: Iterable[Any], row: type) -> pa.Table:
    """`rows`, instances of dataclass `row`, as a table with exactly `schema_of(row)`."""
    return pa.Table.from_pylist([record_of(r) for r in rows], schema=schema_of(row))


def rows_of(table: pa.Table, row: type[R]) -> list[R]:
    """The inverse of `table_of`; columns of `table` that `row` lacks are left out."""
    hints = get_type_hints(row, include_extras=True)
    names = names_of(row)
    columns = [table[name].to_pylist() for name in names]
    return [
        row(**{name: _build(hints[name], value) for name, value in zip(names, values, strict=True)})
        for values in zip(*columns, strict=True)
    ]


def names_of(row: type) -> tuple[str, ...]:
    """The columns of `row`, in order."""
    return tuple(f.name for f in fields(row))


def record_of(value: Any) -> Any:
    """`value` with dataclasses as dicts, all the way down; bytes are passed on, never copied."""
    if is_dataclass(value):
        return {f.name: record_of(getattr(value, f.name)) for f in fields(value)}
    if isinstance(value, Sequence) and not isinstance(value, (str, bytes)):
        return [record_of(item) for item in value]
    return value


def _fields_of(row: type) -> list[pa.Field]:
    hints = get_type_hints(row, include_extras=True)
    return [_field(f.name, hints[f.name]) for f in fields(row)]


def _field(name: str, hint: Any) -> pa.Field:
    inner, nullable = _split_optional(hint)
    return pa.field(name, _arrow_type(inner), nullable=nullable)


def _arrow_type(hint: Any) -> pa.DataType:
    if get_origin(hint) is Annotated:
        return get_args(hint)[1]
    if get_origin(hint) in (list, tuple):
        return pa.list_(pa.field("item", _arrow_type(get_args(hint)[0]), nullable=False))
    if is_dataclass(hint):
        return pa.struct(_fields_of(hint))  # type: ignore[arg-type]
    if hint in _PLAIN:
        return _PLAIN[hint]
    raise TypeError(f"{hint!r} has no Arrow type; use Int32, Float32, str, bytes, bool, a dataclass or a tuple of one")


def _build(hint: Any, value: Any) -> Any:
    hint, _ = _split_optional(hint)
    if value is not None and is_dataclass(hint):
        hints = get_type_hints(hint, include_extras=True)
        return hint(**{f.name: _build(hints[f.name], value[f.name]) for f in fields(hint)})  # type: ignore[operator]
    if value is not None and get_origin(hint) in (list, tuple):
        return tuple(_build(get_args(hint)[0], item) for item in value)
    return value


def _split_optional(hint: Any) -> tuple[Any, bool]:
    if get_origin(hint) in (types.UnionType, Union):
        return next(a for a in get_args(hint) if a is not type(None)), True
    return hint, False
