"""Arrow schemas, records and Parquet options derived from dataclasses, so that a row is defined once, in Python.

A *record* is a row as pyarrow reads and writes it: a dict with nested dicts and lists.
"""

import types
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import fields, is_dataclass
from functools import cache, partial
from typing import (
    Annotated,
    Any,
    NamedTuple,
    TypeAlias,
    TypeGuard,
    TypeVar,
    Union,
    get_args,
    get_origin,
    get_type_hints,
)

import pyarrow as pa

R = TypeVar("R")
Record: TypeAlias = dict[str, Any]
"""A row as pyarrow reads and writes it."""


class FormerName(NamedTuple):
    """Annotation of a field that had another name in an earlier version of the format."""

    name: str
    """The former name."""


Int16 = Annotated[int, pa.int16()]
Int32 = Annotated[int, pa.int32()]
Int64 = Annotated[int, pa.int64()]
Float32 = Annotated[float, pa.float32()]
Key = Annotated[bytes, pa.binary(16)]
LargeBytes = Annotated[bytes, pa.large_binary()]
Sha256 = Annotated[bytes, pa.binary(32)]
Label = Annotated[str, pa.string(), "dictionary"]
"""A string with few distinct values: dictionary-encoded in the file, an ordinary string in memory."""
_hints_of: Callable[[type], dict[str, object]] = cache(partial(get_type_hints, include_extras=True))
Builder: TypeAlias = Callable[[Any], Any]
"""Function from a value of a record to the value of a row's field."""
_PLAIN: dict[type, pa.DataType] = {str: pa.string(), bytes: pa.binary(), bool: pa.bool_()}


@cache
def schema_of(row: type) -> pa.Schema:
    """Return the Arrow schema of a dataclass: one column per field, in field order.

    Raises:
        TypeError: a field's type has no Arrow type (bare `int` and `float` have none: give the width).
    """
    return pa.schema(_fields_of(row))


def row_of(row: type[R], record: Record) -> R:
    """Return the instance of dataclass `row` with the values of `record`; other values of `record` are ignored.

    A record of an earlier version has fields under their former names, and lacks optional fields that came later.

    Raises:
        KeyError: the record lacks a field.
    """
    try:
        values = {name: record[name] if build is None else build(record[name]) for name, build in _builders_of(row)}
    except KeyError:
        record = _with_current_names(row, record)
        values = {name: record[name] if build is None else build(record[name]) for name, build in _builders_of(row)}
    return row(**values)


def names_of(row: type) -> tuple[str, ...]:
    """Return the columns of `row`, in order."""
    return tuple(f.name for f in fields(row))


def optional_names(row: type) -> tuple[str, ...]:
    """Return the columns of `row` that may be None, in order."""
    return tuple(name for name, hint in _hints_of(row).items() if _split_optional(hint)[1])


def record_of(row: object, renamed: Mapping[str, str] = types.MappingProxyType({})) -> Record:
    """Return the record of a dataclass instance, nested ones included. Bytes are passed on, not copied.

    Args:
        row: instance of a dataclass.
        renamed: other names for fields, such as those of `former_names`.
    """
    assert is_dataclass(row), "a row is a dataclass"
    return {renamed.get(f.name, f.name): _plain(getattr(row, f.name), renamed) for f in fields(row)}


def _plain(value: object, renamed: Mapping[str, str]) -> object:
    if is_dataclass(value):
        return record_of(value, renamed)
    if isinstance(value, Sequence) and not isinstance(value, (str, bytes)):
        return [_plain(item, renamed) for item in value]
    return value


def former_names(row: type) -> dict[str, str]:
    """Return the former names of the fields of dataclass `row`, nested ones included, by their present names."""
    former: dict[str, str] = {}
    for name, hint in _hints_of(row).items():
        inner, _ = _split_optional(hint)
        inner = get_args(inner)[0] if get_origin(inner) in (list, tuple) else inner
        if _is_row(inner):
            former |= former_names(inner)
        elif former_name := _former_name(inner):
            former[name] = former_name
    return former


def leaf_paths(schema: pa.Schema) -> list[str]:
    """Return the Parquet column paths of a schema: "entities.list.element.label"."""
    return [path for field in schema for path, _ in _leaves(field.name, field.type)]


@cache
def dictionary_paths(row: type) -> tuple[str, ...]:
    """Return the Parquet column paths of the `Label` fields of dataclass `row`, nested ones included."""
    return tuple(_label_paths(row, ""))


def _leaves(path: str, kind: pa.DataType) -> Iterator[tuple[str, pa.DataType]]:
    if pa.types.is_list(kind):
        yield from _leaves(f"{path}.list.element", kind.value_type)
    elif pa.types.is_struct(kind):
        for field in kind:
            yield from _leaves(f"{path}.{field.name}", field.type)
    else:
        yield path, kind


def _label_paths(hint: object, path: str) -> Iterator[str]:
    inner, _ = _split_optional(hint)
    if get_origin(inner) is Annotated and "dictionary" in get_args(inner):
        yield path
    elif get_origin(inner) in (list, tuple):
        yield from _label_paths(get_args(inner)[0], f"{path}.list.element")
    elif _is_row(inner):
        for name, field_hint in _hints_of(inner).items():
            yield from _label_paths(field_hint, f"{path}.{name}" if path else name)


def _fields_of(row: type) -> list[pa.Field]:
    hints = _hints_of(row)
    return [_field(f.name, hints[f.name]) for f in fields(row)]


def _field(name: str, hint: object) -> pa.Field:
    inner, nullable = _split_optional(hint)
    return pa.field(name, _arrow_type(inner), nullable=nullable)


def _arrow_type(hint: object) -> pa.DataType:
    if get_origin(hint) is Annotated:
        return get_args(hint)[1]
    if get_origin(hint) in (list, tuple):
        return pa.list_(pa.field("item", _arrow_type(get_args(hint)[0]), nullable=False))
    if _is_row(hint):
        return pa.struct(_fields_of(hint))
    if isinstance(hint, type) and hint in _PLAIN:
        return _PLAIN[hint]
    raise TypeError(f"{hint!r} has no Arrow type; use Int32, Float32, str, bytes, bool, a dataclass or a tuple of one")


def _former_name(hint: object) -> str | None:
    return next((mark.name for mark in get_args(hint) if isinstance(mark, FormerName)), None)


def _with_current_names(row: type, record: Record) -> Record:
    former = ((name, _former_name(hint)) for name, hint in _hints_of(row).items())
    renamed = {name: record[old] for name, old in former if old is not None and old in record}
    return dict.fromkeys(optional_names(row)) | renamed | record


def _builders(row: type) -> tuple[tuple[str, Builder | None], ...]:
    """Return for each field the function that builds its value from a record's; None if the two are the same."""
    hints = _hints_of(row)
    return tuple((name, _builder_of(hints[name])) for name in names_of(row))


_builders_of: Callable[[type], tuple[tuple[str, Builder | None], ...]] = cache(_builders)


def _builder_of(hint: object) -> Builder | None:
    inner, _ = _split_optional(hint)
    if _is_row(inner):
        return lambda record: None if record is None else row_of(inner, record)
    if get_origin(inner) in (list, tuple):
        build = _builder_of(get_args(inner)[0])
        return lambda items: None if items is None else tuple(items if build is None else map(build, items))
    return None


def _is_row(hint: object) -> TypeGuard[type]:
    return isinstance(hint, type) and is_dataclass(hint)


def _split_optional(hint: object) -> tuple[object, bool]:
    if get_origin(hint) in (types.UnionType, Union):
        return next(a for a in get_args(hint) if a is not type(None)), True
    return hint, False
