"""A run is alive as long as its process: by a lock in folders, by a heartbeat on object stores."""

import os
import signal
import subprocess
import sys
import threading
import time

import pytest

from infra.storage import storage_path
from labeling.execution import presence
from labeling.execution.presence import is_run_alive, mark_run_alive, remove_stale_markers
from tests.processes import wait_until


@pytest.fixture(params=["local", "far"])
def root(request, tmp_path):
    return storage_path(tmp_path if request.param == "local" else f"memory://{tmp_path.name}")


def markers(root):
    folder = root / "work" / "runs"
    return sorted(path.name for path in folder.iterdir()) if folder.exists() else []


def test_a_run_is_alive_until_its_block_ends(root):
    assert not is_run_alive(root, "one")
    with mark_run_alive(root, "one"):
        assert is_run_alive(root, "one")
        assert not is_run_alive(root, "two")
        remove_stale_markers(root)
        assert len(markers(root)) == 1
    assert not is_run_alive(root, "one")
    assert markers(root) == []


def test_a_run_that_fails_is_not_alive(root):
    with pytest.raises(RuntimeError), mark_run_alive(root, "one"):
        raise RuntimeError
    assert not is_run_alive(root, "one")


HOLDER = """
import sys
from infra.storage import storage_path
from labeling.execution.presence import mark_run_alive

with mark_run_alive(storage_path(sys.argv[1]), "one"):
    print("present", flush=True)
    sys.stdin.read()
"""


def test_a_killed_run_is_not_alive_and_its_marker_is_removed(tmp_path, processes):
    root, pipes = storage_path(tmp_path), {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    run = processes.start([sys.executable, "-c", HOLDER, root.path], **pipes)
    assert run.stdout.readline() == b"present\n"
    assert is_run_alive(root, "one")
    os.kill(run.pid, signal.SIGKILL)
    run.wait()
    assert not is_run_alive(root, "one")
    assert markers(root) == ["one.lock"]
    remove_stale_markers(root)
    assert markers(root) == []


def test_on_an_object_store_a_run_with_a_stale_heartbeat_is_not_alive(tmp_path, monkeypatch):
    root = storage_path(f"memory://{tmp_path.name}")
    marker = root / "work" / "runs" / "one.alive"
    monkeypatch.setattr(presence, "HEARTBEAT_INTERVAL_S", 0.001)
    with mark_run_alive(root, "one"):
        first = marker.read_bytes()
        # memory:// replaces a file in two steps: it is empty in between.
        wait_until("another heartbeat", lambda: marker.read_bytes() not in (first, b""))
    now = time.time()
    marker.write_text(repr(now))
    assert is_run_alive(root, "one")
    for stale in ("", "soon", "nan", repr(now - presence.HEARTBEAT_TIMEOUT_S)):
        marker.write_text(stale)
        assert not is_run_alive(root, "one")
    assert not is_run_alive(root, "one")
    remove_stale_markers(root)
    assert markers(root) == []


def test_a_concurrent_sweep_never_removes_the_marker_of_a_run_that_begins(tmp_path):
    """A sweeper removes the lock's file between its making and its locking: the run makes another."""
    root, stop = storage_path(tmp_path), threading.Event()

    def sweep_all_the_time():
        while not stop.is_set():
            remove_stale_markers(root)

    sweeper = threading.Thread(target=sweep_all_the_time)
    sweeper.start()
    try:
        for number in range(200):
            with mark_run_alive(root, f"run {number}"):
                assert is_run_alive(root, f"run {number}")
    finally:
        stop.set()
        sweeper.join()
