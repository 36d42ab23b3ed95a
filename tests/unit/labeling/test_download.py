"""Where the download keeps what is not finished."""

import os
import tempfile
from pathlib import Path

import pytest

from infra.storage import place
from labeling import lock
from labeling.config import LabelingConfig
from labeling.download import FileSpool, download_shards
from labeling.errors import LabelingError, StageFailed
from labeling.presence import present
from tests.factories import key

TASK = (3, "unused")


@pytest.fixture(params=["local", "far"])
def root(request, tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    return place(tmp_path / "sdd" if request.param == "local" else f"memory://{tmp_path.name}")


def files(folder: Path) -> list[str]:
    return [str(p) for p in folder.rglob("*") if p.is_file() and p.suffix != ".lock"]


def test_a_spool_leaves_nothing(root, tmp_path):
    with FileSpool.opened(root, TASK) as spool:
        spool.put(key(1), b"body")
        assert spool.get(key(1)) == b"body"
        assert files(tmp_path)
    assert files(tmp_path) == []


def test_what_a_killed_process_left_is_removed_by_the_next(root, tmp_path):
    killed = FileSpool.opened(root, TASK)
    with killed as spool:
        folder = spool._folder
    folder.mkdir()
    (folder / "left").write_bytes(b"of a killed process")
    with FileSpool.opened(root, TASK):
        assert files(tmp_path) == []


def test_what_a_killed_run_kept_for_itself_is_removed_by_the_next(root):
    folder = root / "work" / "images"
    for run in ("0123456789ab", "abcdefabcdef"):
        for name in (f"lists-{run}/3.feather", f"shard-00003.{run}.report.json"):
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_bytes(b"left")
    (folder / "shard-00003.json").write_bytes(b"a journal")
    with present(root, "abcdefabcdef"):
        download_shards(LabelingConfig(root=str(root)), [])
    left = ["lists-abcdefabcdef", "shard-00003.abcdefabcdef.report.json", "shard-00003.json"]
    assert sorted(path.name for path in folder.iterdir()) == left
    download_shards(LabelingConfig(root=str(root)), [])
    assert [path.name for path in folder.iterdir()] == ["shard-00003.json"]


@pytest.fixture
def far_folder(tmp_path, monkeypatch) -> Path:
    """Where a spool of `memory://dataset` makes its folder."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    with FileSpool.opened(place("memory://dataset"), TASK):
        (folder,) = tmp_path.iterdir()
    return folder


def test_a_spool_of_a_dataset_far_away_is_the_users_alone(far_folder):
    assert far_folder.stat().st_mode & 0o777 == 0o700
    far_folder.chmod(0o755)
    with FileSpool.opened(place("memory://dataset"), TASK):
        assert far_folder.stat().st_mode & 0o777 == 0o700


def test_a_link_in_its_place_is_not_followed(far_folder, tmp_path):
    far_folder.rename(tmp_path / "elsewhere")
    far_folder.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(StageFailed, match="TMPDIR"), FileSpool.opened(place("memory://dataset"), TASK):
        pass


@pytest.mark.skipif(os.getuid() != 0, reason="only root can give a folder to another user")
def test_a_folder_of_another_user_is_refused(far_folder):
    os.chown(far_folder, 65534, 65534)
    with pytest.raises(StageFailed, match="TMPDIR"), FileSpool.opened(place("memory://dataset"), TASK):
        pass


def test_two_processes_do_not_share_a_spool_of_a_dataset_far_away(tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setattr(lock, "PATIENCE_S", 0.1)
    far = place("memory://dataset")
    with FileSpool.opened(far, TASK), pytest.raises(LabelingError, match="another build"), FileSpool.opened(far, TASK):
        pass
    with FileSpool.opened(far, TASK), FileSpool.opened(place("memory://other"), TASK):
        pass
