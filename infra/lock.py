"""File locks between processes, which the system releases when their process ends."""

import fcntl
import os
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def file_lock(path: Path, timeout_s: float, busy: Exception) -> Iterator[None]:
    """Hold a lock inside the block.

    Args:
        path: file of the lock; created if missing.
        timeout_s: longest wait for the lock, in seconds.
        busy: exception to raise after the timeout.

    Raises:
        Exception: `busy`, if another process holds the lock for longer than `timeout_s`.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    deadline = time.monotonic() + timeout_s
    handle = _acquire(path, deadline, busy)
    while not _is_at(path, handle):  # `remove_unless_locked` removed it in between
        os.close(handle)
        handle = _acquire(path, deadline, busy)
    try:
        yield
    finally:
        os.close(handle)


def is_locked(path: Path) -> bool:
    """Return whether a process holds the lock; read access to its file is enough."""
    try:
        handle = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return False
    try:
        return not _try_lock(handle, fcntl.LOCK_SH)
    finally:
        os.close(handle)


def remove_unless_locked(path: Path, guarded: Path | None = None) -> None:
    """Remove the file of a lock, unless a process holds it.

    Args:
        path: file of the lock.
        guarded: folder that exists only while the lock is held, to remove before the file.
    """
    try:
        handle = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    except FileNotFoundError:
        return
    try:
        if _try_lock(handle):
            if guarded is not None:
                shutil.rmtree(guarded, ignore_errors=True)
            path.unlink(missing_ok=True)
    finally:
        os.close(handle)


def _acquire(path: Path, deadline: float, busy: Exception) -> int:
    handle = os.open(path, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC)
    while not _try_lock(handle):
        if time.monotonic() > deadline:
            os.close(handle)
            raise busy from None
        time.sleep(0.2)
    return handle


def _try_lock(handle: int, kind: int = fcntl.LOCK_EX) -> bool:
    try:
        fcntl.flock(handle, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _is_at(path: Path, handle: int) -> bool:
    """Return whether the open file is still the one at `path`."""
    try:
        named, opened = path.stat(), os.fstat(handle)
    except FileNotFoundError:
        return False
    return (named.st_dev, named.st_ino) == (opened.st_dev, opened.st_ino)
