"""Whether a run still works on a dataset: what a run that was killed left may be removed, what a live one uses may not.

work/runs/NAME.lock     local and shared storage: held until its process ends, however that ends
work/runs/NAME.alive    object stores, which have no locks: the time, written every minute
"""

import logging
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from upath import UPath

from infra.lock import file_lock, is_locked, remove_unless_locked
from infra.storage import contents, is_local, publish_bytes
from labeling.errors import LabelingError

log = logging.getLogger(__name__)
PATIENCE_S = 5.0
"""Others hold a run's lock for the moment in which they look whether it is held."""
HEARTBEAT_S = 60.0
SILENCE_S = 15 * 60.0
"""A run on an object store whose last heartbeat is older counts as killed; clocks of machines differ by less."""


@contextmanager
def present(root: UPath, run: str) -> Iterator[None]:
    """`is_present` says true of the run inside the block. `run` is a name that no other run has."""
    sign = _sign(root, run)
    taken = LabelingError(f"another run is named {run}")
    held = file_lock(Path(sign.path), PATIENCE_S, taken) if is_local(root) else _heart(sign)
    with held:
        try:
            yield
        finally:
            with suppress(Exception):  # the storage's, which may be what ends the run
                sign.unlink(missing_ok=True)


def is_present(root: UPath, run: str) -> bool:
    """Whether the run's process works on the dataset."""
    sign = _sign(root, run)
    return is_locked(Path(sign.path)) if is_local(root) else _beats(sign)


def sweep_signs(root: UPath) -> None:
    """Remove the signs of runs that were killed."""
    folder = root / "work" / "runs"
    for sign in folder.iterdir() if folder.exists() else ():
        if is_local(root):
            remove_unless_locked(Path(sign.path))
        elif not _beats(sign):
            sign.unlink(missing_ok=True)


def _sign(root: UPath, run: str) -> UPath:
    return root / "work" / "runs" / f"{run}.{'lock' if is_local(root) else 'alive'}"


def _beats(sign: UPath) -> bool:
    try:
        return time.time() - float(contents(sign)) < SILENCE_S
    except FileNotFoundError:
        return False


@contextmanager
def _heart(sign: UPath) -> Iterator[None]:
    """Write the time into `sign` now and then."""
    _beat(sign)
    stop = threading.Event()
    thread = threading.Thread(target=_beat_until, args=(stop, sign), daemon=True)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()


def _beat_until(stop: threading.Event, sign: UPath) -> None:
    while not stop.wait(HEARTBEAT_S):
        try:
            _beat(sign)
        except Exception as error:  # the storage's, which may answer the next time
            log.warning("%s cannot be written: %s", sign, error)


def _beat(sign: UPath) -> None:
    publish_bytes(sign, repr(time.time()).encode())
