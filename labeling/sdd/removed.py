"""Removals: `removed/NAME.json`, the URLs and hosts whose images were taken out of a dataset.

A build fetches none of their images again, whatever it rebuilds and whichever list names them.
"""

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import reduce
from typing import Annotated, Self
from urllib.parse import urlsplit

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from infra.storage import contents, publish_bytes
from labeling.errors import ShardCorrupt
from labeling.sdd.schema import State, Verdict
from labeling.sdd.shards import ShardStore

REMOVED = "removed"
"""Folder of the files in a dataset, and reason of the verdict on their images."""
VERDICT = Verdict(state=State.DROPPED, reason=REMOVED, detail="removed/ of the dataset names the URL or its host")
"""Verdict on a removed image. Its stage is images/."""


@dataclass(frozen=True, slots=True)
class UrlSet:
    """URLs, and hosts with all their URLs."""

    urls: frozenset[str] = frozenset()
    hosts: frozenset[str] = frozenset()
    """Hosts in lower case; each stands for its subdomains too."""

    def __contains__(self, url: str) -> bool:
        return url in self.urls or (bool(self.hosts) and not self.hosts.isdisjoint(_domains(url)))

    def __or__(self, other: Self) -> "UrlSet":
        return UrlSet(self.urls | other.urls, self.hosts | other.hosts)


class Removal(BaseModel):
    """Content of a file in `removed/`."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    made_at: str
    """Time of the removal in ISO 8601."""
    reason: str = ""
    """Reason in the words of the person who removed them."""
    urls: tuple[str, ...] = ()
    hosts: tuple[Annotated[str, Field(min_length=1)], ...] = ()

    @property
    def url_set(self) -> UrlSet:
        """All URLs of the removal."""
        return UrlSet(frozenset(self.urls), frozenset(self.hosts))


def write_removal(store: ShardStore, name: str, removal: Removal) -> None:
    """Write the file of a removal."""
    text = json.dumps(removal.model_dump(mode="json"), ensure_ascii=False, indent=1)
    publish_bytes(store.root / REMOVED / f"{name}.json", text.encode())


def removal_names(store: ShardStore) -> list[str]:
    """Return the names of all removals, in order."""
    folder = store.root / REMOVED
    return sorted(path.stem for path in folder.glob("*.json")) if folder.exists() else []


def read_removals(store: ShardStore) -> Mapping[str, Removal]:
    """Read the files of all removals, by their names.

    Raises:
        ShardCorrupt: a file is damaged, so that images could come back.
    """
    removals = {}
    for name in removal_names(store):
        path = store.root / REMOVED / f"{name}.json"
        try:
            removals[name] = Removal.model_validate_json(contents(path))
        except ValidationError as error:
            reason = " ".join(str(error).split())
            raise ShardCorrupt(f"{path} is damaged ({reason[:200]}): put it back from a copy") from error
    return removals


def removed_urls(store: ShardStore) -> UrlSet:
    """Return the URLs of all removals."""
    return union(removal.url_set for removal in read_removals(store).values())


def union(sets: Iterable[UrlSet]) -> UrlSet:
    """Return the URLs that are in any of the sets."""
    return reduce(UrlSet.__or__, sets, UrlSet())


def _domains(url: str) -> list[str]:
    """Return the host of a URL and the domains above it; none if it has no host."""
    try:
        host = (urlsplit(url.strip()).hostname or "").rstrip(".")
    except ValueError:
        return []
    labels = host.split(".")
    return [".".join(labels[start:]) for start in range(len(labels))] if host else []
