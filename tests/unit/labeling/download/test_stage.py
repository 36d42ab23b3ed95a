"""Files that a killed run leaves beside the shards."""

import pytest

from infra.storage import storage_path
from labeling.config import LabelingConfig
from labeling.download.stage import download_shards
from labeling.execution.presence import mark_run_alive


@pytest.mark.parametrize("far", [False, True])
def test_files_of_a_killed_run_are_removed_by_the_next(tmp_path, far):
    root = storage_path(f"memory://{tmp_path.name}" if far else tmp_path / "sdd")
    folder = root / "work" / "images"
    for run in ("0123456789ab", "abcdefabcdef"):
        for name in (f"lists-{run}/3.feather", f"shard-00003.{run}.report.json"):
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_bytes(b"left")
    (folder / "shard-00003.json").write_bytes(b"a journal")
    with mark_run_alive(root, "abcdefabcdef"):
        download_shards(LabelingConfig(root=str(root)), [])
    left = ["lists-abcdefabcdef", "shard-00003.abcdefabcdef.report.json", "shard-00003.json"]
    assert sorted(path.name for path in folder.iterdir()) == left
    download_shards(LabelingConfig(root=str(root)), [])
    assert [path.name for path in folder.iterdir()] == ["shard-00003.json"]
