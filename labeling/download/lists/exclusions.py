"""URLs that are not fetched at the wish of people: removals of the dataset, and a list of opt-outs."""

import re
from dataclasses import dataclass, field

from infra.storage import contents, storage_path
from labeling.config import DownloadConfig
from labeling.errors import BadInput
from labeling.sdd.removed import VERDICT, UrlSet, removed_urls
from labeling.sdd.schema import State, Verdict
from labeling.sdd.shards import ShardStore

OPTED_OUT = Verdict(
    state=State.DROPPED, reason="opted_out", detail="labeling.download.opt_out names the URL or its host"
)
"""Verdict on a URL of the list of opt-outs."""
_KEY = re.compile(r"[0-9a-fA-F]{32}")
_HOST = re.compile(r"(?:\*?\.)?([^\s/:@?#*]+?)\.?")


@dataclass(frozen=True, slots=True)
class Exclusions:
    """URLs that are not fetched."""

    removed: UrlSet = field(default_factory=UrlSet)
    opted_out: UrlSet = field(default_factory=UrlSet)

    def verdict(self, url: str) -> Verdict | None:
        """Return the verdict on a URL; None if it is not excluded."""
        return VERDICT if url in self.removed else OPTED_OUT if url in self.opted_out else None


NOTHING_EXCLUDED = Exclusions()


def read_exclusions(store: ShardStore, config: DownloadConfig) -> Exclusions:
    """Read the removals of a dataset and the opt-outs of the settings.

    Raises:
        BadInput: the list of opt-outs is unusable.
        ShardCorrupt: a removal is damaged.
    """
    opted_out = read_url_set(config.opt_out, "labeling.download.opt_out") if config.opt_out else UrlSet()
    return Exclusions(removed_urls(store), opted_out)


def read_url_set(path: str, source: str) -> UrlSet:
    """Read a text file with a URL or a host in each line. Empty lines and lines that begin with # are ignored.

    Args:
        path: path of the file.
        source: setting or option that names it, for the message.

    Raises:
        BadInput: the file or a line is unusable.
    """
    lines = _read_lines(path, source)
    hosts = {_host(line, f"{source} {path}, line {number}") for number, line in lines if not _is_url(line)}
    return UrlSet(frozenset(line for _, line in lines if _is_url(line)), frozenset(hosts))


def read_urls(path: str, source: str) -> frozenset[str]:
    """Read a text file with a URL in each line, otherwise as `read_url_set`."""
    for number, line in (lines := _read_lines(path, source)):
        if not _is_url(line):
            raise BadInput(f"{source} {path}, line {number}: {line[:100]!r} is no URL: correct it, or use --hosts")
    return frozenset(line for _, line in lines)


def read_hosts(path: str, source: str) -> frozenset[str]:
    """Read a text file with a host in each line, otherwise as `read_url_set`."""
    return frozenset(_host(line, f"{source} {path}, line {number}") for number, line in _read_lines(path, source))


def read_keys(path: str, source: str) -> frozenset[bytes]:
    """Read a text file with a key of 32 hexadecimal digits in each line, otherwise as `read_url_set`."""
    for number, line in (lines := _read_lines(path, source)):
        if not _KEY.fullmatch(line):
            raise BadInput(f"{source} {path}, line {number}: {line[:100]!r} is no key of 32 hex digits: correct it")
    return frozenset(bytes.fromhex(line) for _, line in lines)


def _is_url(line: str) -> bool:
    return "://" in line or line.startswith("file:")  # the URLs of an import have no host


def _host(line: str, place: str) -> str:
    host = _HOST.fullmatch(line)
    if not host or _is_url(line):
        raise BadInput(f"{place}: {line[:100]!r} is no host such as example.com: correct it")
    return host[1].lower()


def _read_lines(path: str, source: str) -> list[tuple[int, str]]:
    """Return the lines of a text file with their numbers, without comments and empty lines.

    Raises:
        BadInput: the file cannot be read, or has no line.
    """
    try:
        text = contents(storage_path(path)).decode("utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise BadInput(f"{source} {path} cannot be read ({error}): give a text file with one entry a line") from error
    lines = [(number, line.strip()) for number, line in enumerate(text.splitlines(), start=1)]
    lines = [(number, line) for number, line in lines if line and not line.startswith("#")]
    if not lines:
        raise BadInput(f"{source} {path} has no entry: give a text file with one entry a line")
    return lines
