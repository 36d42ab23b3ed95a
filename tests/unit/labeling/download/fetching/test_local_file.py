"""Files of `file:` URLs: read inside one folder, refused outside it, and only where the setting names a folder."""

import os
from pathlib import PurePosixPath

import pytest

from labeling.config import DownloadConfig
from labeling.download.fetching.fetch import Fetcher
from labeling.download.fetching.fetch_result import FetchedBody, is_retryable
from labeling.download.fetching.local_file import file_url


@pytest.mark.parametrize("name", ["a.jpg", "deep/er/a b#c?d%20.jpg", "ünï/猫.png", os.fsdecode(b"\xff.jpg")])
def test_a_file_of_any_name_is_read(tmp_path, name):
    path = tmp_path / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"content")
    url = file_url(PurePosixPath(name))
    assert url.isascii()
    assert Fetcher(DownloadConfig(folder=str(tmp_path))).fetch(url) == FetchedBody(b"content")


@pytest.mark.parametrize(
    ("url", "reason"),
    [
        ("file:none.jpg", "missing_file"),
        ("file:../secret", "outside_folder"),
        ("file:%2e%2e/secret", "outside_folder"),
        ("file:../images-of-others/a.jpg", "outside_folder"),
        ("file:///etc/hostname", "outside_folder"),
        ("file:inner", "unreadable_file"),
        ("file:pipe", "unreadable_file"),
        ("file:a%00b", "unreadable_file"),
        ("file:big", "too_large"),
    ],
)
def test_a_file_that_is_not_read_has_a_reason(tmp_path, url, reason):
    folder = tmp_path / "images"
    (folder / "inner").mkdir(parents=True)
    (folder / "big").write_bytes(bytes(11))
    (tmp_path / "secret").write_bytes(b"secret")
    os.mkfifo(folder / "pipe")
    failure = Fetcher(DownloadConfig(folder=str(folder), max_bytes=10)).fetch(url)
    assert failure.reason == reason
    assert not is_retryable(reason)


def test_links_of_the_folder_are_followed(tmp_path):
    (tmp_path / "images").mkdir()
    (tmp_path / "a.jpg").write_bytes(b"content")
    (tmp_path / "images" / "link.jpg").symlink_to(tmp_path / "a.jpg")
    fetcher = Fetcher(DownloadConfig(folder=str(tmp_path / "images")))
    assert fetcher.fetch("file:link.jpg") == FetchedBody(b"content")


def test_a_list_of_the_web_reads_no_files(tmp_path):
    (tmp_path / "a.jpg").write_bytes(b"content")
    for url in ("file:a.jpg", f"file://{tmp_path}/a.jpg"):
        assert Fetcher(DownloadConfig()).fetch(url).reason == "not_http"


def test_the_folder_is_part_of_no_stamp():
    assert DownloadConfig(folder="here").fingerprint() == DownloadConfig().fingerprint() == "caf27ad4fead"
