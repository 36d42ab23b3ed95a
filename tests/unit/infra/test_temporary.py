"""Temporary folders end with their process, or with the next process that makes one."""

import os
import signal
import sys
import tempfile
import threading
from contextlib import suppress
from pathlib import Path

import pytest

from infra.temporary import temporary_folder
from tests.processes import Processes, wait_until

HOLDER = """
import sys
from infra.temporary import temporary_folder

with temporary_folder("test-") as folder:
    (folder / "file").write_text("content")
    print(folder, flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def parent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    return tmp_path


def test_a_folder_is_private_and_ends_with_its_block(parent: Path) -> None:
    with suppress(RuntimeError), temporary_folder("test-") as folder:
        (folder / "file").touch()
        assert folder.parent == parent
        assert folder.stat().st_mode & 0o777 == 0o700
        raise RuntimeError
    assert list(parent.iterdir()) == []


def test_the_folder_of_a_killed_process_is_removed_by_the_next_and_that_of_a_live_one_is_not(
    parent: Path, processes: Processes
) -> None:
    pipes = {"stdin": -1, "stdout": -1, "env": os.environ | {"TMPDIR": str(parent)}}
    killed, live = (processes.start([sys.executable, "-c", HOLDER], **pipes) for _ in range(2))
    folders = [Path(process.stdout.readline().decode().strip()) for process in (killed, live)]
    os.kill(killed.pid, signal.SIGKILL)
    killed.wait()
    assert [(folder / "file").exists() for folder in folders] == [True, True]
    with temporary_folder("another-"):
        assert folders[0].exists()
    with temporary_folder("test-"):
        assert [folder.exists() for folder in folders] == [False, True]
    live.stdin.close()
    wait_until("the folder is removed", lambda: list(parent.iterdir()) == [])


def test_folders_made_at_once_do_not_remove_each_other(parent: Path) -> None:
    failures: list[Exception] = []

    def make_many() -> None:
        try:
            for number in range(100):
                with temporary_folder("test-") as folder:
                    (folder / "file").write_text(str(number))
                    assert (folder / "file").read_text() == str(number)
        except Exception as error:
            failures.append(error)

    threads = [threading.Thread(target=make_many) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    assert list(parent.iterdir()) == []
