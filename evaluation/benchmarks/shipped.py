"""Lists that ship with the project: TOML files in `data/`, whose origins and licences are in `data/LICENSES.md`."""

import tomllib
from pathlib import Path
from typing import TypeVar

from infra.config import Config

DATA = Path(__file__).parent / "data"
Lists = TypeVar("Lists", bound=Config)


def read_shipped(file: str, kind: type[Lists]) -> Lists:
    """Read a file of `data/` as settings of the given class."""
    return kind.model_validate(tomllib.loads((DATA / file).read_text(encoding="utf-8")))
