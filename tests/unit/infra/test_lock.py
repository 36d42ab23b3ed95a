"""A lock as another user sees it."""

import os
import tempfile
from pathlib import Path

from infra.lock import file_lock, is_locked
from tests.processes import Processes

_NOBODY = 65534


def _is_locked_for_a_reader(path: Path) -> bool:
    """Return `is_locked` as a user who may only read the file."""
    if os.geteuid() == 0:
        os.setgid(_NOBODY)
        os.setuid(_NOBODY)
    return is_locked(path)


def test_a_user_with_read_access_sees_whether_a_lock_is_held(processes: Processes) -> None:
    with tempfile.TemporaryDirectory() as folder:
        os.chmod(folder, 0o755)
        path = Path(folder) / "lock"
        with file_lock(path, 1, TimeoutError("busy")):
            path.chmod(0o444)
            assert processes.fork(_is_locked_for_a_reader, path).result()
        assert not processes.fork(_is_locked_for_a_reader, path).result()
