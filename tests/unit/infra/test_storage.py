"""Files appear whole or not at all, wherever they are."""

import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from infra.storage import contents, is_local, open_binary, publish, publish_bytes, storage_path, sweep


@pytest.fixture
def file(tmp_path):
    return storage_path(tmp_path / "folder" / "file.parquet")


def put(path, content, *, replace=False):
    publish(path, lambda file: file.write(content), replace=replace)


def names(path):
    return sorted(p.name for p in Path(path.path).parent.iterdir())


def test_a_place_is_local_and_absolute_or_a_url(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert storage_path("out/sdd").path == str(tmp_path / "out" / "sdd")
    assert is_local(storage_path("out/sdd"))
    monkeypatch.setenv("HOME", str(tmp_path))
    assert storage_path("~/sdd").path == str(tmp_path / "sdd")
    assert storage_path(f"file://{tmp_path}/x").path == str(tmp_path / "x")
    assert is_local(storage_path(f"file://{tmp_path}/x"))
    memory = storage_path("memory://bucket/sdd")
    assert not is_local(memory)
    assert str(memory / "images") == "memory://bucket/sdd/images"


@pytest.mark.parametrize("root", ["local", "memory://storage"])
def test_publishing_is_exclusive_unless_replacing(tmp_path, root):
    path = storage_path(tmp_path if root == "local" else f"{root}/{tmp_path.name}") / "folder" / "file"
    put(path, b"first")
    with pytest.raises(FileExistsError):
        put(path, b"second")
    assert contents(path) == b"first"
    put(path, b"third", replace=True)
    with open_binary(path) as opened:
        opened.seek(2)
        assert opened.read() == b"ird"


def test_a_small_file_takes_the_place_of_the_former(file):
    publish_bytes(file, b"before")
    publish_bytes(file, b"after")
    assert contents(file) == b"after"
    assert names(file) == ["file.parquet"]


@pytest.mark.parametrize("replace", [True, False])
def test_a_file_is_there_only_when_it_is_whole(file, replace):
    def write(unfinished):
        unfinished.write(b"half")
        unfinished.flush()
        assert not file.exists()
        unfinished.write(b", whole")

    publish(file, write, replace=replace)
    assert contents(file) == b"half, whole"
    assert names(file) == ["file.parquet"]


@pytest.mark.parametrize("replace", [True, False])
def test_a_writer_that_raises_leaves_what_was_there(file, replace):
    if replace:
        put(file, b"before")

    def write(unfinished):
        unfinished.write(b"half")
        raise RuntimeError

    with pytest.raises(RuntimeError):
        publish(file, write, replace=replace)
    assert names(file) == (["file.parquet"] if replace else [])
    assert not replace or contents(file) == b"before"


def test_of_many_writers_at_once_one_wins(file):
    won = []

    def write(content):
        try:
            put(file, content)
            won.append(content)
        except FileExistsError:
            pass

    writers = [threading.Thread(target=write, args=(f"{n}".encode(),)) for n in range(16)]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    assert won == [contents(file)]
    assert names(file) == ["file.parquet"]


DIES = """
import os, signal, sys
from infra.storage import storage_path, publish

def write(file):
    file.write(b"half")
    file.flush()
    os.kill(os.getpid(), signal.SIGKILL)

publish(storage_path(sys.argv[1]), write, replace=True)
"""


def test_a_killed_writer_leaves_a_hidden_file_that_sweeping_removes(file):
    put(file, b"before")
    other = file.parent / "file.parquet2"
    put(other, b"other")
    Path(file.path).with_name(".file.parquet2.0a1b2c3d.tmp").touch()
    died = subprocess.run([sys.executable, "-c", DIES, file.path])
    assert died.returncode == -signal.SIGKILL
    assert contents(file) == b"before"
    left = [name for name in names(file) if name.startswith(".file.parquet.")]
    assert len(left) == 1
    sweep(file)
    assert names(file) == [".file.parquet2.0a1b2c3d.tmp", "file.parquet", "file.parquet2"]


def test_sweeping_nothing_is_no_error(tmp_path):
    sweep(storage_path(tmp_path / "nowhere" / "file"))
    sweep(storage_path("memory://nowhere/file"))


def test_a_file_reaches_the_disk_before_it_has_its_name(file, monkeypatch):
    happened = []
    fsync, link = os.fsync, os.link
    monkeypatch.setattr(os, "fsync", lambda handle: happened.append("fsync") or fsync(handle))
    monkeypatch.setattr(os, "link", lambda *names: happened.append("link") or link(*names))
    put(file, b"content")
    assert happened == ["fsync", "link", "fsync"]


def test_a_file_that_is_not_there_is_said_so(file):
    with pytest.raises(FileNotFoundError):
        contents(file)
    with pytest.raises(FileNotFoundError), open_binary(file):
        pass
