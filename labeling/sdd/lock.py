"""One worker per shard: orphans of a killed driver live on for seconds, and two builds may share a folder."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from upath import UPath

from infra.lock import file_lock
from infra.storage import is_local
from labeling.errors import LabelingError

TIMEOUT_S = 60.0


@contextmanager
def shard_lock(root: UPath, layer: str, shard: str) -> Iterator[None]:
    """Hold the shard's lock of this layer; it ends with the process. On object stores there is none: there the
    conditional PUT decides who was first.

    Raises:
        LabelingError: somebody else holds it for longer than `TIMEOUT_S`.
    """
    if not is_local(root):
        yield
        return
    path = Path(root.path) / "work" / layer / f"{shard}.lock"
    busy = LabelingError(f"{path} is held by another build: wait for it, or give a new root")
    with file_lock(path, TIMEOUT_S, busy):
        yield
