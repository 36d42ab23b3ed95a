"""One worker per shard, as long as it lives."""

import os
import signal
import subprocess
import sys

import pytest

from infra.storage import storage_path
from labeling.errors import LabelingError
from labeling.sdd import lock
from labeling.sdd.lock import shard_lock
from tests.factories import SHARD
from tests.processes import PATIENCE_S

HOLDER = """
import sys
from infra.storage import storage_path
from labeling.sdd.lock import shard_lock

with shard_lock(storage_path(sys.argv[1]), "captions", "shard-00000"):
    print("held", flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def root(tmp_path):
    return storage_path(tmp_path)


@pytest.fixture
def impatient(monkeypatch):
    monkeypatch.setattr(lock, "TIMEOUT_S", 0.05)


@pytest.fixture
def patient(monkeypatch):
    monkeypatch.setattr(lock, "TIMEOUT_S", PATIENCE_S)


@pytest.fixture
def holder(root, processes):
    """Another process that holds the lock of the shard's captions."""
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    process = processes.start([sys.executable, "-c", HOLDER, root.path], **pipes)
    assert process.stdout.readline() == b"held\n"
    return process


def held(root, layer="captions", shard=SHARD):
    try:
        with shard_lock(root, layer, shard):
            return False
    except LabelingError:
        return True


@pytest.mark.usefixtures("impatient")
def test_who_waits_too_long_is_told_which_lock(root, holder):
    with pytest.raises(LabelingError) as error, shard_lock(root, "captions", SHARD):
        pass
    assert f"{root.path}/work/captions/{SHARD}.lock is held by another build" in str(error.value)
    assert not held(root, "nouns")
    assert not held(root, "captions", "shard-00001")


@pytest.mark.usefixtures("impatient")
def test_a_lock_is_free_after_the_block_whatever_happened_in_it(root):
    def fail():
        with shard_lock(root, "captions", SHARD):
            assert held(root)
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail()
    assert not held(root)


@pytest.mark.usefixtures("patient")
def test_who_waits_gets_it_when_its_holder_is_killed(root, holder):
    os.kill(holder.pid, signal.SIGKILL)
    assert not held(root)


@pytest.mark.usefixtures("patient")
def test_who_waits_gets_it_when_its_holder_is_done(root, holder):
    holder.stdin.close()
    assert not held(root)


@pytest.mark.usefixtures("impatient")
def test_child_processes_do_not_hold_it(root, processes):
    with shard_lock(root, "captions", SHARD):
        processes.start([sys.executable, "-c", "input()"], stdin=subprocess.PIPE, close_fds=False)
    assert not held(root)


def test_object_stores_have_none():
    store = storage_path("memory://locks/sdd")
    with shard_lock(store, "captions", SHARD), shard_lock(store, "captions", SHARD):
        assert not store.exists()
