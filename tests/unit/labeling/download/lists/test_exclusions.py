"""Removals and opt-outs: which URLs they name, and which verdict comes first."""

from dataclasses import replace
from pathlib import Path

import pytest

from labeling.config import DownloadConfig
from labeling.download.lists.exclusions import Exclusions, read_exclusions, read_url_set
from labeling.download.screening.stage import verdict_of_listing
from labeling.errors import BadInput, ShardCorrupt
from labeling.sdd.removed import Removal, UrlSet, removed_urls, write_removal
from labeling.sdd.shards import ShardStore
from tests.factories import listed

OPT_OUT = """# people who opted out
https://a.example/1.jpg
file:cats/1.jpg

B.example
*.c.example
.d.example.
"""


@pytest.fixture
def opted_out(tmp_path: Path) -> UrlSet:
    (tmp_path / "opt-out.txt").write_text(OPT_OUT)
    return read_url_set(str(tmp_path / "opt-out.txt"), "labeling.download.opt_out")


@pytest.mark.parametrize(
    ("url", "is_excluded"),
    [
        ("https://a.example/1.jpg", True),
        ("https://a.example/2.jpg", False),
        ("file:cats/1.jpg", True),
        ("https://b.example/2.jpg", True),
        ("http://user@B.Example.:8080/2.jpg", True),
        ("https://images.b.example/2.jpg", True),
        ("https://ab.example/2.jpg", False),
        ("https://c.example/", True),
        ("https://x.y.d.example/", True),
        ("https://example/b.example", False),
        ("http://[::1", False),
        ("b.example", False),
    ],
)
def test_a_host_stands_for_its_subdomains(opted_out: UrlSet, url: str, is_excluded: bool) -> None:
    assert (url in opted_out) is is_excluded


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "has no entry"),
        (b"# nothing\n\n", "has no entry"),
        (b"a.example\nimages of mine\n", r"opt-out\.txt, line 2: 'images of mine' is no host such as"),
        (b"a.example/1.jpg\n", "line 1: 'a.example/1.jpg' is no host such as"),
        (b"\xff\xfe", "cannot be read"),
        (None, "cannot be read"),
    ],
)
def test_a_list_that_cannot_be_used_is_refused(tmp_path: Path, content: bytes | None, message: str) -> None:
    if content is not None:
        (tmp_path / "opt-out.txt").write_bytes(content)
    config = DownloadConfig(opt_out=str(tmp_path / "opt-out.txt"))
    with pytest.raises(BadInput, match=message):
        read_exclusions(ShardStore(str(tmp_path)), config)


def test_removals_of_a_dataset_are_excluded_whatever_the_settings(tmp_path: Path) -> None:
    store = ShardStore(str(tmp_path))
    assert read_exclusions(store, DownloadConfig()) == Exclusions()
    strange = "https://a.example/\né"
    write_removal(store, "first", Removal(made_at="2026-11-30T12:00:00+00:00", urls=(strange,)))
    write_removal(store, "second", Removal(made_at="2026-11-30T12:00:00+00:00", hosts=("b.example",)))
    removed = read_exclusions(store, DownloadConfig()).removed
    assert strange in removed
    assert "https://b.example/2.jpg" in removed
    assert removed.hosts == {"b.example"}
    (tmp_path / "removed" / "second.json").write_text('{"made_at": 1}')
    with pytest.raises(ShardCorrupt, match=r"second\.json is damaged"):
        removed_urls(store)


def test_an_exclusion_comes_before_the_values_of_the_list() -> None:
    row = replace(listed(1), punsafe=1.0)
    removed, opted_out = (UrlSet(hosts=frozenset({host})) for host in ("example.com", "com"))
    reasons = [
        getattr(verdict_of_listing(row, DownloadConfig(), (), exclusions), "reason", None)
        for exclusions in (Exclusions(removed, opted_out), Exclusions(opted_out=opted_out), Exclusions())
    ]
    assert reasons == ["removed", "opted_out", "unsafe"]


def test_an_opt_out_list_makes_no_file_stale() -> None:
    assert DownloadConfig(opt_out="list.txt").fingerprint() == DownloadConfig().fingerprint()
