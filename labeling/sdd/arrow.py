"""Arrow schemas from dataclasses, so that a row is described once, in Python."""

import types
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import fields, is_dataclass
from functools import cache, partial
from typing import Annotated, Any, NamedTuple, TypeVar, Union, get_args, get_origin, get_type_hints

import pyarrow as pa

R = TypeVar("R")


class Former(NamedTuple):
    """The name that a field had in an earlier version of the format."""

    name: str


Int16 = Annotated[int, pa.int16()]
Int32 = Annotated[int, pa.int32()]
Int64 = Annotated[int, pa.int64()]
Float32 = Annotated[float, pa.float32()]
Key = Annotated[bytes, pa.binary(16)]
LargeBytes = Annotated[bytes, pa.large_binary()]
Sha256 = Annotated[bytes, pa.binary(32)]
Label = Annotated[str, pa.string(), "dictionary"]
"""A string that repeats: dictionary-encoded in the file, an ordinary string in memory."""
_hints_of: Callable[[Any], dict[str, Any]] = cache(partial(get_type_hints, include_extras=True))
_PLAIN: dict[type, pa.DataType] = {str: pa.string(), bytes: pa.binary(), bool: pa.bool_()}


def schema_of(row: type) -> pa.Schema:
    """The Arrow schema of a dataclass: one column a field, in field order.

    Raises:
        TypeError: a field's type has no Arrow form here (bare `int` and `float` have none: say the width).
    """
    return pa.schema(_fields_of(row))


def row_of(row: type[R], record: Mapping[str, Any]) -> R:
    """The instance of dataclass `row` with the values of `record`; what `row` lacks is left out.

    The record of an earlier version has fields under their former names, and lacks optional fields that came later.

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
    """The columns of `row`, in order."""
    return tuple(f.name for f in fields(row))


def optional_names(row: type) -> tuple[str, ...]:
    """The columns of `row` that may be None, in order."""
    return tuple(name for name, hint in _hints_of(row).items() if _split_optional(hint)[1])


def record_of(value: Any, renamed: Mapping[str, str] = types.MappingProxyType({})) -> Any:
    """`value` with dataclasses as dicts, all the way down; bytes are passed on, never copied.

    Args:
        renamed: other names for fields, such as those of `former_names`.
    """
    if is_dataclass(value):
        return {renamed.get(f.name, f.name): record_of(getattr(value, f.name), renamed) for f in fields(value)}
    if isinstance(value, Sequence) and not isinstance(value, (str, bytes)):
        return [record_of(item, renamed) for item in value]
    return value


def former_names(row: Any) -> dict[str, str]:
    """The former names of the fields of dataclass `row`, however deep, by their names of today."""
    found: dict[str, str] = {}
    for name, hint in _hints_of(row).items():
        inner, _ = _split_optional(hint)
        inner = get_args(inner)[0] if get_origin(inner) in (list, tuple) else inner
        if is_dataclass(inner):
            found |= former_names(inner)
        elif former := _former_name(inner):
            found[name] = former
    return found


def leaf_paths(schema: pa.Schema) -> list[str]:
    """The Parquet column paths of a schema: "entities.list.element.label"."""
    return [path for field in schema for path, _ in _leaves(field.name, field.type)]


def dictionary_paths(row: type) -> list[str]:
    """The Parquet column paths of the `Label` fields of dataclass `row`, however deep."""
    return list(_labels(row, ""))


def _leaves(path: str, kind: pa.DataType) -> Iterator[tuple[str, pa.DataType]]:
    if pa.types.is_list(kind):
        yield from _leaves(f"{path}.list.element", kind.value_type)
    elif pa.types.is_struct(kind):
        for field in kind:
            yield from _leaves(f"{path}.{field.name}", field.type)
    else:
        yield path, kind


def _labels(hint: Any, path: str) -> Iterator[str]:
    inner, _ = _split_optional(hint)
    if get_origin(inner) is Annotated and "dictionary" in get_args(inner):
        yield path
    elif get_origin(inner) in (list, tuple):
        yield from _labels(get_args(inner)[0], f"{path}.list.element")
    elif is_dataclass(inner):
        for name, of in _hints_of(inner).items():
            yield from _labels(of, f"{path}.{name}" if path else name)


def _fields_of(row: Any) -> list[pa.Field]:
    hints = _hints_of(row)
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
        return pa.struct(_fields_of(hint))
    if hint in _PLAIN:
        return _PLAIN[hint]
    raise TypeError(f"{hint!r} has no Arrow type; use Int32, Float32, str, bytes, bool, a dataclass or a tuple of one")


def _former_name(hint: Any) -> str | None:
    return next((mark.name for mark in get_args(hint) if isinstance(mark, Former)), None)


def _with_current_names(row: type, record: Mapping[str, Any]) -> dict[str, Any]:
    former = ((name, _former_name(hint)) for name, hint in _hints_of(row).items())
    renamed = {name: record[old] for name, old in former if old is not None and old in record}
    return dict.fromkeys(optional_names(row)) | renamed | dict(record)


def _builders(row: type) -> tuple[tuple[str, Callable[[Any], Any] | None], ...]:
    """What makes each field's value of a record's; None where that is the value."""
    hints = _hints_of(row)
    return tuple((name, _builder_of(hints[name])) for name in names_of(row))


_builders_of: Callable[[Any], tuple[tuple[str, Callable[[Any], Any] | None], ...]] = cache(_builders)


def _builder_of(hint: Any) -> Callable[[Any], Any] | None:
    hint, _ = _split_optional(hint)
    if isinstance(hint, type) and is_dataclass(hint):
        return lambda record: None if record is None else row_of(hint, record)
    if get_origin(hint) in (list, tuple):
        build = _builder_of(get_args(hint)[0])
        return lambda items: None if items is None else tuple(items if build is None else map(build, items))
    return None


def _split_optional(hint: Any) -> tuple[Any, bool]:
    if get_origin(hint) in (types.UnionType, Union):
        return next(a for a in get_args(hint) if a is not type(None)), True
    return hint, False
