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
    urls, hosts = set(), set()
    for number, line in read_lines(path, source):
        if "://" in line:
            urls.add(line)
        elif host := _HOST.fullmatch(line):
            hosts.add(host[1].lower())
        else:
            raise BadInput(f"{source} {path}, line {number}: {line[:100]!r} is neither a URL nor a host: correct it")
    return UrlSet(frozenset(urls), frozenset(hosts))


def read_lines(path: str, source: str) -> list[tuple[int, str]]:
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
