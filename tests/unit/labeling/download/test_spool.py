"""Bodies wait in the spool until their shard is made, also for another process."""

import contextlib
import os
import tempfile
from pathlib import Path

import pytest

from infra.storage import storage_path
from labeling.download import spool
from labeling.download.spool import Spool, has_spool, remove_spool
from labeling.errors import LabelingError, StageFailed
from labeling.sdd import lock
from tests.factories import key

SHARD = ("shard-00003", "stamp")


@pytest.fixture(params=["local", "far"])
def root(request, tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    return storage_path(tmp_path / "sdd" if request.param == "local" else f"memory://{tmp_path.name}")


def files(folder: Path) -> list[str]:
    return [str(p) for p in folder.rglob("*") if p.is_file() and p.suffix != ".lock"]


def test_a_spool_leaves_nothing(root, tmp_path):
    with Spool.open(root, *SHARD) as bodies:
        path = bodies.put(key(1), b"body")
        assert path.read_bytes() == bodies.get(key(1)) == b"body"
        assert files(tmp_path)
    assert files(tmp_path) == []


def killed(root) -> Path:
    """Put two bodies into a spool whose process then dies; returns the file of the first."""
    with contextlib.suppress(KeyboardInterrupt), Spool.open(root, *SHARD) as bodies:
        path = bodies.put(key(1), b"one")
        bodies.put(key(2), b"two")
        raise KeyboardInterrupt
    return path


def test_the_next_process_finds_the_bodies_of_a_killed_one(root):
    path = killed(root)
    (path.parent / f".{key(3).hex()}.tmp").write_bytes(b"half a bo")
    with Spool.open(root, *SHARD) as bodies:
        assert bodies.find(key(1)) == path
        assert [bodies.get(key(number)) for number in (1, 2)] == [b"one", b"two"]
        assert bodies.find(key(3)) is None


def test_a_body_that_a_power_cut_tore_is_fetched_again(root):
    killed(root).write_bytes(b"o")
    with Spool.open(root, *SHARD) as bodies:
        assert bodies.find(key(1)) is None
        assert bodies.find(key(2))
        bodies.put(key(1), b"one")
        assert bodies.find(key(1))


def test_bodies_fetched_under_other_settings_are_removed(root, tmp_path):
    killed(root)
    with Spool.open(root, SHARD[0], "another stamp") as bodies:
        assert bodies.find(key(1)) is None
        assert files(tmp_path) == []


def test_the_spool_of_a_finished_shard_can_be_removed(tmp_path):
    root = storage_path(tmp_path)
    assert not has_spool(root, SHARD[0])
    killed(root)
    assert has_spool(root, SHARD[0])
    remove_spool(root, SHARD[0])
    assert not has_spool(root, SHARD[0])


def test_one_process_at_a_time_decodes_big_images(root, monkeypatch):
    monkeypatch.setattr(spool, "BIG_IMAGE_TIMEOUT_S", 0.1)
    monkeypatch.setattr(lock, "TIMEOUT_S", 0.1)
    with Spool.open(root, *SHARD) as one, Spool.open(root, "shard-00004", "stamp") as other:
        with one.big_image_lock(), pytest.raises(LabelingError, match=r"big-images\.lock"), other.big_image_lock():
            pass
        with other.big_image_lock():
            pass


@pytest.fixture
def far_folder(tmp_path, monkeypatch) -> Path:
    """Folder of the spools of `memory://dataset`."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    with Spool.open(storage_path("memory://dataset"), *SHARD):
        (folder,) = tmp_path.iterdir()
    return folder


def test_the_spool_of_a_remote_dataset_is_private_to_the_user(far_folder):
    assert far_folder.stat().st_mode & 0o777 == 0o700
    far_folder.chmod(0o755)
    with Spool.open(storage_path("memory://dataset"), *SHARD):
        assert far_folder.stat().st_mode & 0o777 == 0o700


def test_a_link_in_its_place_is_not_followed(far_folder, tmp_path):
    far_folder.rename(tmp_path / "elsewhere")
    far_folder.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(StageFailed, match="TMPDIR"), Spool.open(storage_path("memory://dataset"), *SHARD):
        pass


@pytest.mark.skipif(os.getuid() != 0, reason="only root can give a folder to another user")
def test_a_folder_of_another_user_is_refused(far_folder):
    os.chown(far_folder, 65534, 65534)
    with pytest.raises(StageFailed, match="TMPDIR"), Spool.open(storage_path("memory://dataset"), *SHARD):
        pass


def test_two_processes_do_not_share_the_spool_of_a_remote_dataset(tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setattr(lock, "TIMEOUT_S", 0.1)
    far = storage_path("memory://dataset")
    with Spool.open(far, *SHARD), pytest.raises(LabelingError, match="another build"), Spool.open(far, *SHARD):
        pass
    with Spool.open(far, *SHARD), Spool.open(storage_path("memory://other"), *SHARD):
        pass
