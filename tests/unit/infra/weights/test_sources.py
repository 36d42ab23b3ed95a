"""Folders, hub ids in the local cache, and the commands that get what is not here."""

import shlex
from pathlib import Path

import pytest

from infra.weights.files import WeightsFault, WeightsState
from infra.weights.sources import HubSource, file_cure, find_file, find_folder, find_local_folder, folder_cure
from tests.hub_cache import cache_folder

SOURCE = HubSource("owner/net", size_bytes=1, licence="MIT", files=("*.json", "net.bin"), commit="c0ffee")


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    return tmp_path / "hub"


def test_a_folder_is_found_before_a_hub_id(tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cache_folder(cache, "owner/net")
    (tmp_path / "owner" / "net").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    assert find_folder("owner/net", None).resolve() == tmp_path / "owner" / "net"


@pytest.mark.parametrize(("hub_id", "revision"), [("owner/net", None), ("owner/net", "main"), ("net", "v1")])
def test_a_hub_id_is_found_in_the_cache(cache: Path, hub_id: str, revision: str | None) -> None:
    folder = cache_folder(cache, hub_id, revision or "main")
    assert find_folder(hub_id, revision) == folder


@pytest.mark.parametrize("name", ["owner/net", "net", "a b", "/no/such", "~/no/such", "./no", "one/two/three"])
def test_what_is_nowhere_is_named(name: str) -> None:
    with pytest.raises(WeightsFault, match="no such folder") as fault:
        find_folder(name, "v2")
    assert fault.value.state is WeightsState.ABSENT
    assert ("at revision v2" in str(fault.value)) == (name in ("owner/net", "net", "a b"))


def test_files_and_local_folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "net.pth").touch()
    assert find_file("~/net.pth") == tmp_path / "net.pth"
    assert find_local_folder("~") == tmp_path
    with pytest.raises(WeightsFault, match="no such file"):
        find_file(str(tmp_path))
    with pytest.raises(WeightsFault, match="no such folder"):
        find_local_folder("~/net.pth")


def test_the_command_downloads_to_where_the_setting_looks(tmp_path: Path) -> None:
    includes = ["--include", "*.json", "--include", "net.bin"]
    start = ["hf", "download", "owner/net"]
    folder = tmp_path / "net"
    for name, revision, words in [
        ("owner/net", "main", [*start, *includes]),
        ("owner/net", None, [*start, *includes]),
        ("owner/net", "v1", [*start, "--revision", "v1", *includes]),
        ("other/net", "v1", ["hf", "download", "other/net", "--revision", "v1"]),
        (str(folder), "v1", [*start, "--revision", "c0ffee", "--local-dir", str(folder), *includes]),
    ]:
        assert shlex.split(folder_cure(name, revision, SOURCE, "net").command) == words
    assert folder_cure(str(folder), None, SOURCE, "net").advice == ""


def test_nothing_is_downloaded_into_a_folder_that_may_hold_another_network(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    mine, downloaded = tmp_path / "mine", tmp_path / "weights" / "net"
    mine.mkdir()
    cure = folder_cure(str(mine), None, SOURCE, "table.net")
    assert "--local-dir weights/net" in cure.command
    assert cure.advice == f"copy {mine} again, or take owner/net in its place: --set table.net=weights/net"
    for _ in range(2):  # before a download, and after one that broke off
        cure = folder_cure("weights/net", None, SOURCE, "table.net")
        assert "--local-dir weights/net" in cure.command
        assert cure.advice == ""
        downloaded.mkdir(parents=True, exist_ok=True)


def test_a_path_with_a_space_or_a_tilde_reaches_the_shell_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    cure = file_cure("~/a b.pth", "https://host/net.pth", 7, "MIT")
    assert shlex.split(cure.command)[-2:] == [str(tmp_path / "a b.pth"), "https://host/net.pth"]
    assert (cure.size_bytes, cure.licence) == (7, "MIT")
