"""A file that one process at a time holds: it is let go of with the process, however that ends."""

import fcntl
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def file_lock(path: Path, patience_s: float, busy: Exception) -> Iterator[None]:
    """Hold `path`, which is made where it is not there.

    Raises:
        Exception: `busy`, where somebody else holds it for longer than `patience_s` seconds.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    handle = os.open(path, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC)
    try:
        _wait(handle, patience_s, busy)
        yield
    finally:
        os.close(handle)


def _wait(handle: int, patience_s: float, busy: Exception) -> None:
    deadline = time.monotonic() + patience_s
    while True:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return
        except BlockingIOError:
            if time.monotonic() > deadline:
                raise busy from None
            time.sleep(0.2)
