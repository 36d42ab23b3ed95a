"""Imports of libraries without a package that they import in vain."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType


@contextmanager
def without_wandb() -> Iterator[None]:
    """Whoever imports wandb inside the block gets an empty module, unless it was imported before.

    img2dataset and timm, which OpenCLIP imports, import it and use it only when asked to. It makes two folders in the
    temporary directory, which stay behind where the process is killed, and takes about a second.
    """
    if "wandb" in sys.modules:
        yield
        return
    sys.modules["wandb"] = ModuleType("wandb")
    try:
        yield
    finally:
        del sys.modules["wandb"]
