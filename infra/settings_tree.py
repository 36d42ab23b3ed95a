"""Rows that describe every setting of a typed tree, for `subject-diffusion settings` and the reference."""

import ast
import inspect
import textwrap
from collections.abc import Iterator
from dataclasses import dataclass
from enum import Enum
from types import UnionType
from typing import Annotated, Union, get_args, get_origin

from annotated_types import Ge, Gt, Le, Lt, MinLen
from pydantic.fields import FieldInfo

from infra.config import Config

_WORDS = {"str": "string", "bool": "true or false", "NoneType": "unset"}


@dataclass(frozen=True, slots=True)
class Setting:
    """One setting of a tree."""

    name: str
    """Dotted name, as `--set` takes it: `labeling.download.timeout_s`."""
    type: str
    """Kind of value in words, with its bounds: `int > 0`."""
    default: str | None
    """Default in TOML syntax; None where the setting is required."""
    help: str
    """Explanation: the docstring of the field."""
    choices: tuple[tuple[str, str], ...] = ()
    """Values of an enumeration, each with its explanation."""


@dataclass(frozen=True, slots=True)
class Table:
    """One table of a tree, with the settings that it holds itself."""

    name: str
    """Dotted name: `labeling.download`."""
    help: str
    """Explanation: the docstring of the settings class."""
    settings: tuple[Setting, ...]


def tables(cls: type[Config], name: str = "", default: Config | None = None) -> Iterator[Table]:
    """Yield every table of a tree in the order of its fields, each before the tables inside it.

    Args:
        cls: settings class at the root of the tree.
        name: dotted name of the root; empty for the whole tree, which is not itself a table.
        default: default of the enclosing table, where it differs from the defaults of `cls`.
    """
    nested = {key: kind for key, field in cls.model_fields.items() if (kind := _table_class(field))}
    if name:
        own = [key for key in cls.model_fields if key not in nested]
        yield Table(name, _unwrap(cls.__doc__), tuple(_setting(cls, key, name, default) for key in own))
    for key, kind in nested.items():
        inner = _default(cls, key, default)
        yield from tables(kind, f"{name}.{key}" if name else key, inner if isinstance(inner, Config) else None)


def _setting(cls: type[Config], key: str, table: str, default: Config | None) -> Setting:
    field = cls.model_fields[key]
    toml = None if field.is_required() and default is None else _toml(_default(cls, key, default))
    return Setting(f"{table}.{key}", _type_name(field), toml, _unwrap(field.description), _choices(field))


def _default(cls: type[Config], key: str, default: Config | None) -> object:
    if default is not None:
        return getattr(default, key)
    field = cls.model_fields[key]
    return None if field.is_required() else field.get_default(call_default_factory=True)


def _table_class(field: FieldInfo) -> type[Config] | None:
    """Return the settings class of a field that is a table."""
    return next((c for c in _classes(field) if issubclass(c, Config)), None)


def _classes(field: FieldInfo) -> list[type]:
    return [kind for kind in _alternatives(field.annotation) if isinstance(kind, type)]


def _alternatives(annotation: object) -> tuple[object, ...]:
    return get_args(annotation) if get_origin(annotation) in {Union, UnionType} else (annotation,)


def _type_name(field: FieldInfo) -> str:
    kinds = " or ".join(_kind(kind) for kind in _alternatives(field.annotation))
    return " ".join([kinds, *_bounds(field.metadata)])


def _kind(kind: object) -> str:
    origin, args = get_origin(kind), get_args(kind)
    if origin is Annotated:
        return " ".join([_kind(args[0]), *_bounds(list(args[1:]))])
    if origin in {tuple, list}:
        return f"list of {_kind(args[0])}"
    if origin is dict:
        return f"table of {_kind(args[1])}"
    if isinstance(kind, type) and issubclass(kind, Enum):
        return "choice"
    name = getattr(kind, "__name__", str(kind))
    return _WORDS.get(name, name)


def _bounds(metadata: list[object]) -> list[str]:
    bounds = [bound for item in metadata if (bound := _bound(item))]
    return [", ".join(bounds)] if bounds else []


def _bound(item: object) -> str | None:
    match item:
        case Ge(ge):
            return f"≥ {ge}"
        case Gt(gt):
            return f"> {gt}"
        case Le(le):
            return f"≤ {le}"
        case Lt(lt):
            return f"< {lt}"
        case MinLen():
            return "not empty"
    return None


def _toml(value: object) -> str:
    match value:
        case None:
            return "unset"
        case Enum():
            return _toml(value.value)
        case bool():
            return str(value).lower()
        case str():
            return f'"{value}"'
        case tuple() | list():
            return f"[{', '.join(map(_toml, value))}]"
        case dict():
            return f"{{ {', '.join(f'{_toml(key)} = {_toml(of)}' for key, of in value.items())} }}"
    return str(value)


def _choices(field: FieldInfo) -> tuple[tuple[str, str], ...]:
    enums = [kind for kind in _classes(field) if issubclass(kind, Enum)]
    return tuple((str(member.value), _member_docs(enum).get(member.name, "")) for enum in enums for member in enum)


def _member_docs(enum: type[Enum]) -> dict[str, str]:
    """Return the docstring under each member of an enumeration, which Python does not keep at run time."""
    body = ast.parse(textwrap.dedent(inspect.getsource(enum))).body[0]
    assert isinstance(body, ast.ClassDef)
    docs = {}
    for member, below in zip(body.body, body.body[1:], strict=False):
        match member, below:
            case ast.Assign(targets=[ast.Name(id=name)]), ast.Expr(value=ast.Constant(value=str(text))):
                docs[name] = _unwrap(text)
    return docs


def _unwrap(text: str | None) -> str:
    """Join the lines of each paragraph of a docstring."""
    paragraphs = (text or "").strip().split("\n\n")
    return "\n\n".join(" ".join(paragraph.split()) for paragraph in paragraphs)
