"""The verb `remove`: its files, its messages and its exit codes."""

import json
import shutil
from pathlib import Path

import pytest
from click.testing import Result
from typer.testing import CliRunner

from flows.cli import app
from labeling.sdd.schema import Layer, SddRow
from labeling.sdd.shards import ShardStore
from tests.sound_dataset import sound_dataset, url_of


@pytest.fixture(scope="module")
def sound(tmp_path_factory) -> Path:
    return sound_dataset(tmp_path_factory.mktemp("sound") / "sdd")


@pytest.fixture
def root(sound: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(sound, tmp_path / "sdd"))


def run(*words: object) -> Result:
    return CliRunner().invoke(app, ["remove", *map(str, words)])


def kept(root: Path) -> list[str]:
    store = ShardStore(str(root))
    return [row.url for shard in store.shards(Layer.SDD) for row in store.read(SddRow, (Layer.SDD,), shard)]


def test_keys_urls_and_hosts_are_removed_together(root: Path, tmp_path: Path) -> None:
    store = ShardStore(str(root))
    keys = {row.url: row.key.hex() for row in store.read(SddRow, (Layer.SDD,), "shard-00000")}
    (tmp_path / "keys.txt").write_text(f"# from inspect\n{keys[url_of(0)].upper()}\n")
    (tmp_path / "urls.txt").write_text(f"{url_of(3)}\n")
    (tmp_path / "hosts.txt").write_text("B.Example\n")
    files = ["--keys", tmp_path / "keys.txt", "--urls", tmp_path / "urls.txt", "--hosts", tmp_path / "hosts.txt"]
    result = run(root, *files, "--reason", "asked by letter", "--dry-run")
    rows = "4 rows of the list and 3 images of sdd/ in 2 shards"
    assert (result.exit_code, result.stdout) == (0, f"{root}: {rows} would be removed\n")
    assert len(kept(root)) == 4
    result = run(root, *files, "--reason", "asked by letter")
    assert (result.exit_code, result.stdout) == (0, f"{root}: {rows} removed\n")
    assert kept(root) == [url_of(1)]
    (stored,) = (json.loads(path.read_text()) for path in (root / "removed").iterdir())
    assert stored["reason"] == "asked by letter"
    assert (stored["urls"], stored["hosts"]) == ([url_of(0), url_of(3)], ["b.example"])


@pytest.mark.parametrize(
    ("option", "line", "message"),
    [
        ("--keys", "abc", "line 1: 'abc' is no key of 32 hex digits"),
        ("--keys", "0" * 32, "lacks 1 of 1 keys, " + "0" * 32),
        ("--urls", "a.example", "line 1: 'a.example' is no URL"),
        ("--hosts", "https://a.example/", "line 1: 'https://a.example/' is no host"),
        ("--hosts", "", "has no entry"),
    ],
)
def test_a_line_that_cannot_be_used_changes_nothing(
    root: Path, tmp_path: Path, option: str, line: str, message: str
) -> None:
    (tmp_path / "list.txt").write_text(line)
    result = run(root, option, tmp_path / "list.txt")
    assert result.exit_code == 2
    assert message in result.stderr
    assert not (root / "removed").exists()


def test_without_a_file_there_must_be_an_unfinished_removal(root: Path, tmp_path: Path) -> None:
    result = run(root)
    assert result.exit_code == 2
    assert "give --keys, --urls or --hosts" in " ".join(result.stderr.split())
    (tmp_path / "hosts.txt").write_text("b.example\n")
    assert run(root, "--hosts", tmp_path / "hosts.txt").exit_code == 0
    for path in (root / "work" / "removed").iterdir():
        path.unlink()
    result = run(root)
    assert (result.exit_code, result.stdout.split(": ")[1]) == (
        0,
        "0 rows of the list and 0 images of sdd/ in 0 shards removed\n",
    )
