"""Records of runs, and of runs that were killed."""

import json

import pytest

from infra.storage import storage_path
from labeling.config import LabelingConfig
from labeling.execution.presence import mark_run_alive
from labeling.execution.record import read_runs, record_run


@pytest.fixture(params=["local", "far"])
def root(request, tmp_path):
    return storage_path(tmp_path if request.param == "local" else f"memory://{tmp_path.name}")


def run_once(root):
    """The names of a run that came to its end."""
    with record_run(LabelingConfig(root=str(root)), [], shards=1) as record:
        assert [run["state"] for run in read_runs(root) if run["name"] == record.name] == ["running"]
        return record.name


def states(root):
    return {run["name"]: run["state"] for run in read_runs(root)}


def on_disk(root):
    return {path.name: json.loads(path.read_bytes())["state"] for path in (root / "runs").iterdir()}


def test_a_run_is_running_then_done_or_failed(root):
    first = run_once(root)
    with pytest.raises(KeyboardInterrupt), record_run(LabelingConfig(root=str(root)), [], shards=1) as record:
        raise KeyboardInterrupt
    assert states(root) == {first: "done", record.name: "failed"}


def left_by_a_killed_run(root, name):
    record = json.loads((root / "runs" / f"{run_once(root)}.json").read_bytes())
    (root / "runs" / f"{name}.json").write_text(json.dumps(record | {"name": name, "state": "running"}))


def test_a_killed_run_is_shown_as_killed_and_the_next_run_writes_it_down(root):
    left_by_a_killed_run(root, "20200101T000000-abcdef")
    assert states(root)["20200101T000000-abcdef"] == "killed"
    assert on_disk(root)["20200101T000000-abcdef.json"] == "running", "looking changes nothing"
    run_once(root)
    assert on_disk(root)["20200101T000000-abcdef.json"] == "killed"
    assert states(root)["20200101T000000-abcdef"] == "killed"


def test_the_record_of_a_concurrent_run_is_left_alone(root):
    left_by_a_killed_run(root, "20200101T000000-abcdef")
    with mark_run_alive(root, "20200101T000000-abcdef"):
        run_once(root)
        assert states(root)["20200101T000000-abcdef"] == "running"


def test_half_written_records_of_killed_runs_are_removed(tmp_path):
    folder = tmp_path / "runs"
    folder.mkdir()
    for name in ("killed", "live"):
        (folder / f".{name}.json.12345678.tmp").write_text("{")
    with mark_run_alive(storage_path(tmp_path), "live"):
        run_once(storage_path(tmp_path))
    assert [path.name for path in folder.iterdir() if path.suffix == ".tmp"] == [".live.json.12345678.tmp"]


def test_files_that_are_not_records_are_left_alone(tmp_path):
    contents = {"torn": "{", "list": "[]", "null": "null", "other": "{}", "deep": "[" * 100_000}
    contents |= {"kind": '{"name": "x", "state": []}', "shards": '{"name": "x", "state": "done", "shards": "many"}'}
    (tmp_path / "runs").mkdir()
    for name, content in contents.items():
        (tmp_path / "runs" / f"{name}.json").write_text(content)
    name = run_once(storage_path(tmp_path))
    assert states(storage_path(tmp_path)) == {name: "done"}
    assert len(list((tmp_path / "runs").iterdir())) == 1 + len(contents)
