"""Import of libraries without what this project does not use of them."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from types import ModuleType


@contextmanager
def without_wandb() -> Iterator[None]:
    """Replace wandb by an empty module inside the block, unless it has been imported already.

    img2dataset and timm, which OpenCLIP imports, import wandb and use it only on request. The import takes about a
    second and makes two temporary folders, which remain if the process is killed.
    """
    if "wandb" in sys.modules:
        yield
        return
    sys.modules["wandb"] = ModuleType("wandb")
    try:
        yield
    finally:
        del sys.modules["wandb"]


@contextmanager
def without_package_code(name: str) -> Iterator[None]:
    """Import modules of a package inside the block without its `__init__`, unless that has been imported already.

    The `__init__` of img2dataset imports all its modules, and with them Ray and albumentations.

    Args:
        name: name of an installed package.
    """
    if name in sys.modules:
        yield
        return
    spec = find_spec(name)
    assert spec is not None, f"{name} is a requirement"
    sys.modules[name] = ModuleType(name)
    sys.modules[name].__path__ = list(spec.submodule_search_locations or ())
    try:
        yield
    finally:
        del sys.modules[name]
