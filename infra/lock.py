"""A file that one process at a time holds: it is let go of with the process, however that ends."""

import fcntl
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def file_lock(path: Path, timeout_s: float, busy: Exception) -> Iterator[None]:
    """Hold `path`, which is made where it is not there.

    Raises:
        Exception: `busy`, where somebody else holds it for longer than `timeout_s` seconds.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    deadline = time.monotonic() + timeout_s
    handle = _locked(path, deadline, busy)
    while not _is_at(path, handle):  # `remove_unless_locked` was faster
        os.close(handle)
        handle = _locked(path, deadline, busy)
    try:
        yield
    finally:
        os.close(handle)


def is_locked(path: Path) -> bool:
    """Whether some process holds `path`."""
    try:
        handle = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    except FileNotFoundError:
        return False
    try:
        return not _take(handle)
    finally:
        os.close(handle)


def remove_unless_locked(path: Path) -> None:
    """Remove the file of a lock that no process holds."""
    try:
        handle = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    except FileNotFoundError:
        return
    try:
        if _take(handle):
            path.unlink(missing_ok=True)
    finally:
        os.close(handle)


def _locked(path: Path, deadline: float, busy: Exception) -> int:
    handle = os.open(path, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC)
    while not _take(handle):
        if time.monotonic() > deadline:
            os.close(handle)
            raise busy from None
        time.sleep(0.2)
    return handle


def _take(handle: int) -> bool:
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _is_at(path: Path, handle: int) -> bool:
    """Whether the open file is the one that `path` names."""
    try:
        named, opened = path.stat(), os.fstat(handle)
    except FileNotFoundError:
        return False
    return (named.st_dev, named.st_ino) == (opened.st_dev, opened.st_ino)
