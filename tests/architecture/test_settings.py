"""Every numeric setting has a lower and an upper bound, so that a typing error is refused at once."""

from collections.abc import Iterator
from importlib import import_module
from typing import Any

import pytest

from infra.config import Config
from tests.architecture.test_architecture import OURS, ROOT

MODULES = [
    path.relative_to(ROOT).with_suffix("").as_posix().replace("/", ".")
    for name in OURS
    for path in sorted((ROOT / name).rglob("*.py"))
    if "(Config)" in path.read_text()
]
LOWER, UPPER = {"minimum", "exclusiveMinimum"}, {"maximum", "exclusiveMaximum"}


def classes(base: type[Config]) -> Iterator[type[Config]]:
    for cls in base.__subclasses__():
        yield cls
        yield from classes(cls)


def unbounded(schema: Any, path: str = "") -> Iterator[str]:
    """Return the places of a JSON schema that take any number."""
    if isinstance(schema, list):
        for part in schema:
            yield from unbounded(part, path)
    elif isinstance(schema, dict):
        if schema.get("type") in ("integer", "number") and not (schema.keys() & LOWER and schema.keys() & UPPER):
            yield path
        for key, part in schema.items():
            yield from unbounded(part, f"{path}.{key}" if isinstance(part, dict) else path)


@pytest.mark.parametrize("module", MODULES)
def test_every_numeric_setting_has_a_lower_and_an_upper_bound(module):
    import_module(module)
    ours = [cls for cls in classes(Config) if cls.__module__ == module]
    assert ours
    assert {f"{cls.__name__}{place}" for cls in ours for place in unbounded(cls.model_json_schema())} == set()
