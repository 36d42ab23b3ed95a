"""Locks that let one worker at a time make a shard.

Workers of a killed driver survive it for a few seconds, and two builds may share a folder.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from upath import UPath

from infra.lock import file_lock
from infra.storage import is_local
from labeling.errors import LabelingError

TIMEOUT_S = 60.0
"""Longest wait for a lock, in seconds."""


@contextmanager
def shard_lock(root: UPath, layer: str, shard: str) -> Iterator[None]:
    """Hold the lock of one shard in one layer; the system releases it when the process ends.

    Object stores have no locks: there a conditional PUT decides which of two writers was first.

    Raises:
        LabelingError: another process holds the lock for longer than `TIMEOUT_S`.
    """
    if not is_local(root):
        yield
        return
    path = Path(root.path) / "work" / layer / f"{shard}.lock"
    busy = LabelingError(f"{path} is held by another build: wait for it, or give a new root")
    with file_lock(path, TIMEOUT_S, busy):
        yield
