"""Import of libraries without optional packages that this project does not use."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
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
