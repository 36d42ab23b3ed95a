"""Markers of the runs that work on a dataset, so that files of a killed run can be told from those of a live one.

work/runs/NAME.lock     local and shared storage: locked until the run's process ends, however it ends
work/runs/NAME.alive    object stores, which have no locks: a heartbeat, the time, written every minute
"""

import logging
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path

from upath import UPath

from infra.lock import file_lock, is_locked, remove_unless_locked
from infra.storage import contents, is_local, publish_bytes
from labeling.errors import LabelingError
from labeling.execution.background import run_in_background

log = logging.getLogger(__name__)
LOCK_TIMEOUT_S = 5.0
"""Seconds to wait for a run's own lock, which others hold for the moment in which they test it."""
HEARTBEAT_INTERVAL_S = 60.0
"""Seconds between two heartbeats."""
HEARTBEAT_TIMEOUT_S = 15 * 60.0
"""Age in seconds at which a heartbeat is stale and its run counts as killed; the clocks of machines differ by less."""


@contextmanager
def mark_run_alive(root: UPath, run: str) -> Iterator[None]:
    """Mark the run as alive while the block runs.

    Args:
        root: folder of the dataset.
        run: name of the run, which no other run has.
    """
    marker = _marker(root, run)
    in_use = LabelingError(f"another run is named {run}")
    alive = file_lock(Path(marker.path), LOCK_TIMEOUT_S, in_use) if is_local(root) else _heartbeat(marker)
    with alive:
        try:
            yield
        finally:
            with suppress(Exception):  # an error of the storage, which may be what ends the run
                marker.unlink(missing_ok=True)


def is_run_alive(root: UPath, run: str) -> bool:
    """Return whether the run's process works on the dataset."""
    marker = _marker(root, run)
    return is_locked(Path(marker.path)) if is_local(root) else _has_heartbeat(marker)


def remove_stale_markers(root: UPath) -> None:
    """Remove the markers of runs that were killed."""
    folder = root / "work" / "runs"
    for marker in folder.iterdir() if folder.exists() else ():
        if is_local(root):
            remove_unless_locked(Path(marker.path))
        elif not _has_heartbeat(marker):
            marker.unlink(missing_ok=True)


def _marker(root: UPath, run: str) -> UPath:
    return root / "work" / "runs" / f"{run}.{'lock' if is_local(root) else 'alive'}"


def _has_heartbeat(marker: UPath) -> bool:
    try:
        return time.time() - float(contents(marker)) < HEARTBEAT_TIMEOUT_S
    except (FileNotFoundError, ValueError):  # a marker without a time was not written by a run
        return False


@contextmanager
def _heartbeat(marker: UPath) -> Iterator[None]:
    """Write heartbeats into `marker` while the block runs."""
    _write_heartbeat(marker)
    with run_in_background(partial(_write_heartbeats, marker)):
        yield


def _write_heartbeats(marker: UPath, stop: threading.Event) -> None:
    while not stop.wait(HEARTBEAT_INTERVAL_S):
        try:
            _write_heartbeat(marker)
        except Exception as error:  # an error of the storage, which may be over at the next heartbeat
            log.warning("%s cannot be written: %s", marker, error)


def _write_heartbeat(marker: UPath) -> None:
    publish_bytes(marker, repr(time.time()).encode())
