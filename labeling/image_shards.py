"""One shard of `images/`: each URL fetched, each body looked at, each outcome written.

Bodies wait in a spool on disk until all outcomes are known, as the file is in the order of keys and answers are not.
"""

import contextlib
import faulthandler
import hashlib
import heapq
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Protocol, TypeAlias

from labeling.config import DownloadConfig, DownloadWorkers
from labeling.fetch import Fetched, NotFetched, is_passing
from labeling.journal import Journal
from labeling.rounds import fetch_all
from labeling.screening import Screened, screen, verdict_of_listing
from labeling.sdd.schema import Image, ListedUrl, State, Verdict
from labeling.sdd.shards import Refused, ShardStore
from labeling.steps import IMAGES, stamp_of
from labeling.url_list import URLS

AT_ONCE = 16
"""Bodies that are looked at between two notes in the journal."""
DEADLINE_S = 120.0
"""A process that needs longer to look at so many is ended; the journal says which they were."""
Found: TypeAlias = Screened | Verdict
Answered: TypeAlias = tuple[ListedUrl, Fetched | NotFetched]


class Spool(Protocol):
    """Where bodies wait."""

    def put(self, key: bytes, encoded: bytes) -> None:
        """Keep the body."""

    def get(self, key: bytes) -> bytes:
        """The body that was kept."""


@dataclass(frozen=True, slots=True, kw_only=True)
class KeptHash:
    """What the stamp needs to know of an image."""

    key: bytes
    sha256: bytes


def images_stamp(config: DownloadConfig, store: ShardStore, shard: str) -> str:
    """How the stamp of the shard's file in `images/` begins: its settings, and its rows of the list.

    What follows is a hash of what came, as later files depend on that too: `full_stamp`.
    """
    urls = store.stamp(URLS, shard)
    return stamp_of(IMAGES, config.fingerprint(), urls.stamp if urls else "")


def full_stamp(begin: str, kept: Mapping[bytes, bytes]) -> str:
    """The whole stamp of a file that begins with `begin` and keeps images of these keys and SHA-256."""
    content = b"".join(key + kept[key] for key in sorted(kept))
    return f"{begin}-{hashlib.sha256(content).hexdigest()[:12]}"


def passing_failures(store: ShardStore, shard: str) -> list[bytes]:
    """The keys of a finished shard that were not downloaded for a reason that may be gone by now."""
    verdicts = store.verdicts(IMAGES, shard).items()
    return [key for key, v in verdicts if v.state == State.NOT_DOWNLOADED and is_passing(v.reason)]


@dataclass
class Gathering:
    """Fetches URLs and looks at what comes."""

    fetch: Callable[[str], Fetched | NotFetched]
    config: DownloadConfig
    workers: DownloadWorkers
    journal: Journal
    spool: Spool
    fetched_repeats: frozenset[int] = frozenset()
    """Rows of the list that are fetched although an earlier row has their URL."""

    def gather(self, listed: Sequence[ListedUrl]) -> dict[bytes, Found]:
        """What became of each URL; the bodies of the `Screened` are in the spool."""
        found: dict[bytes, Found] = {}
        for url in listed:
            if verdict := verdict_of_listing(url, self.config, self.fetched_repeats):
                found[url.key] = verdict
        todo = [url for url in listed if url.key not in found]
        with contextlib.closing(fetch_all(todo, self.fetch, self.config, self.workers)) as answers:
            while some := list(islice(answers, AT_ONCE)):
                for batch in self._batches(some):
                    self.journal.sent((url.key for url, answer in batch if isinstance(answer, Fetched)), len(found))
                    found |= self._look_at(batch)
                    self.journal.sent((), len(found))  # a death while the next ones are awaited is nobody's doing
        return found

    def _batches(self, answered: Sequence[Answered]) -> Iterator[list[Answered]]:
        """All in one, but each suspect of having killed a process alone."""
        if normal := [each for each in answered if not self.journal.is_suspect(each[0].key)]:
            yield normal
        yield from ([each] for each in answered if self.journal.is_suspect(each[0].key))

    def _look_at(self, batch: Sequence[Answered]) -> dict[bytes, Found]:
        faulthandler.dump_traceback_later(DEADLINE_S, exit=True, file=sys.__stderr__ or sys.stderr)
        try:
            return {url.key: self._found(url, answer) for url, answer in batch}
        finally:
            faulthandler.cancel_dump_traceback_later()

    def _found(self, url: ListedUrl, answer: Fetched | NotFetched) -> Found:
        if isinstance(answer, NotFetched):
            return Verdict(state=State.NOT_DOWNLOADED, reason=answer.reason, detail=answer.detail)
        if cause := self.journal.quarantine(url.key):
            return Verdict(state=State.QUARANTINED, reason="crash", detail=cause)
        found = screen(answer.body, self.config)
        if isinstance(found, Screened):
            self.spool.put(url.key, answer.body)
        return found


@dataclass
class ImageShard:
    """The file of one shard in `images/`."""

    store: ShardStore
    shard: str
    listed: Sequence[ListedUrl]
    """Its rows of the list, in the order of their keys."""
    begin: str
    """`images_stamp` of the shard."""

    def make(self, gathering: Gathering) -> dict[str, int]:
        """Write the file; counts by state."""
        there = self.store.stamp(IMAGES, self.shard)
        found = gathering.gather(self.listed)
        kept = {key: f.sha256 for key, f in found.items() if isinstance(f, Screened)}
        try:
            return self._write(self._rows(found, gathering.spool), kept, replace=there is not None)
        except FileExistsError:  # an object store has no locks: somebody was first, and others may have built on it
            first = self.store.stamp(IMAGES, self.shard)
            assert first is not None, "it is there"
            return first.counts

    def retry(self, gathering: Gathering) -> dict[str, int]:
        """Fetch again what may come now, and write the file anew if any image did; counts by state."""
        again = set(passing_failures(self.store, self.shard))
        found = gathering.gather([url for url in self.listed if url.key in again])
        came = {key: f.sha256 for key, f in found.items() if isinstance(f, Screened)}
        if not came:  # other reasons alone are not worth making all later files of the shard again
            stamp = self.store.stamp(IMAGES, self.shard)
            assert stamp is not None, "only finished shards are tried again"
            return stamp.counts
        before = {image.key: image.sha256 for image in self.store.read(KeptHash, (IMAGES,), self.shard)}
        rows = heapq.merge(self._old_rows(again), self._rows(found, gathering.spool), key=lambda row: row.key)
        return self._write(rows, before | came, replace=True)

    def _rows(self, found: Mapping[bytes, Found], spool: Spool) -> Iterator[Image | Refused]:
        for url in self.listed:
            if outcome := found.get(url.key):
                yield _row(url, outcome, spool)

    def _old_rows(self, without: set[bytes]) -> Iterator[Image | Refused]:
        verdicts = self.store.verdicts(IMAGES, self.shard).items()
        refused = (Refused(key=key, verdict=verdict) for key, verdict in sorted(verdicts, key=lambda v: v[0]))
        kept: Iterator[Image | Refused] = self.store.read(Image, (IMAGES,), self.shard)
        rows = heapq.merge(kept, refused, key=lambda row: row.key)
        return (row for row in rows if row.key not in without)

    def _write(self, rows: Iterator[Image | Refused], kept: Mapping[bytes, bytes], replace: bool) -> dict[str, int]:
        stamp = full_stamp(self.begin, kept)
        return self.store.write_outcomes(IMAGES, self.shard, rows, Image, stamp, replace=replace)


def _row(url: ListedUrl, found: Found, spool: Spool) -> Image | Refused:
    if isinstance(found, Verdict):
        return Refused(key=url.key, verdict=found)
    return Image(
        key=url.key,
        url=url.url,
        alt_text=url.alt_text,
        similarity=url.similarity,
        punsafe=url.punsafe,
        pwatermark=url.pwatermark,
        aesthetic_score=url.aesthetic_score,
        sha256=found.sha256,
        perceptual_hash=found.perceptual_hash,
        media_type=found.media_type,
        width_px=found.width_px,
        height_px=found.height_px,
        image=spool.get(url.key),
    )
