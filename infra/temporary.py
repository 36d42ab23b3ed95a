"""Temporary folders that do not outlive their process for long, even if it is killed."""

import shutil
import tempfile
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from infra.lock import file_lock, remove_unless_locked

_LOCK_TIMEOUT_S = 5.0
"""Seconds to wait for a folder's own lock, which others hold for the moment in which they test it."""


@contextmanager
def temporary_folder(prefix: str) -> Iterator[Path]:
    """Yield a new folder that only this user can read, and remove it at the end of the block.

    Folders of the same prefix that killed processes left are removed too. A folder is there only while its lock is
    held, or if its process was killed.
    """
    parent = Path(tempfile.gettempdir())
    folder = parent / f"{prefix}{uuid.uuid4().hex[:12]}"
    lock = folder.with_name(f"{folder.name}.lock")
    with file_lock(lock, _LOCK_TIMEOUT_S, FileExistsError(f"{lock} is in use")):
        try:
            _remove_leftovers(parent, prefix)
            folder.mkdir(mode=0o700)
            yield folder
        finally:
            shutil.rmtree(folder, ignore_errors=True)
            lock.unlink(missing_ok=True)


def _remove_leftovers(parent: Path, prefix: str) -> None:
    for lock in parent.glob(f"{prefix}*.lock"):
        with suppress(PermissionError):  # of another user
            remove_unless_locked(lock, lock.with_suffix(""))
