"""One shard of `images/`: each URL fetched, each body looked at, each outcome written.

Bodies wait in a spool on disk until all outcomes are known, as the file is in the order of keys and answers are not.
They are looked at in a child process, which one of them may crash or hang (labeling/execution/supervisor.py).
"""

import contextlib
import hashlib
import heapq
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TypeAlias

from labeling.config import DownloadConfig, DownloadWorkers, Workers
from labeling.download.fetch import Fetched, NotFetched, is_passing
from labeling.download.lost_images import LostImages
from labeling.download.rounds import fetch_all
from labeling.download.screening import Body, Outcome, Screened, verdict_of_listing
from labeling.download.spool import Spool
from labeling.execution.journal import Journal
from labeling.execution.process import StageProcess
from labeling.execution.supervisor import ShardPass
from labeling.sdd.schema import Image, Layer, ListedUrl, State, Verdict
from labeling.sdd.shards import Refused, ShardStore
from labeling.steps import stamp_of

SCREENER = Workers(batch_size=16, prepare_threads=1, batch_deadline_s=120.0)
"""How the process runs that looks at bodies."""
FetchOutcome: TypeAlias = Screened | Verdict


@dataclass(frozen=True, slots=True, kw_only=True)
class KeptHash:
    """What the stamp needs to know of an image."""

    key: bytes
    sha256: bytes


def images_stamp(config: DownloadConfig, store: ShardStore, shard: str) -> str:
    """How the stamp of the shard's file in `images/` begins: its settings, and its rows of the list.

    What follows is a hash of what came, as later files depend on that too: `full_stamp`.
    """
    urls = store.stamp(Layer.URLS, shard)
    return stamp_of(Layer.IMAGES, config.fingerprint(), urls.stamp if urls else "")


def full_stamp(begin: str, kept: Mapping[bytes, bytes]) -> str:
    """The whole stamp of a file that begins with `begin` and keeps images of these keys and SHA-256."""
    content = b"".join(key + kept[key] for key in sorted(kept))
    return f"{begin}-{hashlib.sha256(content).hexdigest()[:12]}"


def passing_failures(store: ShardStore, shard: str) -> list[bytes]:
    """The keys of a finished shard that were not downloaded for a reason that may be gone by now."""
    verdicts = store.verdicts(Layer.IMAGES, shard).items()
    return [key for key, v in verdicts if v.state == State.NOT_DOWNLOADED and is_passing(v.reason)]


@dataclass
class Gathering:
    """Fetches URLs and looks at what comes."""

    fetch: Callable[[str], Fetched | NotFetched]
    config: DownloadConfig
    workers: DownloadWorkers
    journal: Journal
    spool: Spool
    screener: StageProcess
    """The process that looks at bodies."""
    fetched_repeats: frozenset[int] = frozenset()
    """Rows of the list that are fetched although an earlier row has their URL."""
    found: dict[bytes, FetchOutcome] = field(default_factory=dict)

    def gather(self, listed: Sequence[ListedUrl]) -> dict[bytes, FetchOutcome]:
        """What became of each URL; the bodies of the `Screened` are in the spool."""
        for url in listed:
            if verdict := verdict_of_listing(url, self.config, self.fetched_repeats):
                self.found[url.key] = verdict
        shard_pass = ShardPass(self.screener, self.journal, done=len(self.found))
        try:
            self._fetch_and_screen([url for url in listed if url.key not in self.found], shard_pass)
        finally:
            if shard_pass.in_flight:  # else the next shard would be given the answers
                self.screener.discard()
        return self.found

    def _fetch_and_screen(self, listed: Sequence[ListedUrl], shard_pass: ShardPass) -> None:
        with contextlib.closing(self._bodies(listed, shard_pass)) as bodies:
            big = self._screen(bodies, shard_pass)
        if big:
            self.screener.batch_limit = 1
            with self.spool.big_images():
                self._screen((replace(body, may_be_big=True) for body in big), shard_pass)

    def _bodies(self, listed: Sequence[ListedUrl], shard_pass: ShardPass) -> Generator[Body]:
        """The bodies of the URLs, first those that are in the spool; notes why others have none."""
        missing = []
        for url in listed:
            if path := self.spool.find(url.key):
                yield Body(key=url.key, path=str(path))
            else:
                missing.append(url)
        with contextlib.closing(fetch_all(missing, self.fetch, self.config, self.workers)) as answers:
            for url, answer in answers:
                if isinstance(answer, Fetched):
                    yield Body(key=url.key, path=str(self.spool.put(url.key, answer.body)))
                else:
                    verdict = Verdict(state=State.NOT_DOWNLOADED, reason=answer.reason, detail=answer.detail)
                    self.found[url.key] = verdict
                    shard_pass.skip()

    def _screen(self, bodies: Iterator[Body], shard_pass: ShardPass) -> list[Body]:
        """Note what is found out about the bodies; returns those that take more memory than they may."""
        big = []
        for outcome in shard_pass.outcomes(bodies):
            if isinstance(outcome, Refused):
                self.found[outcome.key] = outcome.verdict
                continue
            assert isinstance(outcome, Outcome)
            if outcome.found is None:
                big.append(Body(key=outcome.key, path=str(self.spool.find(outcome.key))))
            else:
                self.found[outcome.key] = outcome.found
        return big


@dataclass
class ImageShard:
    """The file of one shard in `images/`."""

    store: ShardStore
    shard: str
    listed: Sequence[ListedUrl]
    """Its rows of the list, in the order of their keys."""
    begin: str
    """`images_stamp` of the shard."""

    def make(self, gathering: Gathering, *, accept_loss: bool = False) -> dict[str, int]:
        """Write the file; counts by state.

        Args:
            accept_loss: write it even where the file was lost and came back with other images.

        Raises:
            ImagesLost: later files were made from a file that is lost, and cannot be made again as it was.
        """
        there = self.store.stamp(Layer.IMAGES, self.shard)
        if lost := LostImages.find(self.store, self.shard, self.begin):
            lost.fill(gathering.spool)
            gathering.found |= lost.refused()
        found = gathering.gather(self.listed)
        kept = {key: f.sha256 for key, f in found.items() if isinstance(f, Screened)}
        if lost and not accept_loss:
            lost.refuse_other_images(full_stamp(self.begin, kept), found)
        try:
            return self._write(self._rows(found, gathering.spool), kept, replace=there is not None)
        except FileExistsError:  # an object store has no locks: somebody was first, and others may have built on it
            first = self.store.stamp(Layer.IMAGES, self.shard)
            assert first is not None, "it is there"
            return first.counts

    def retry(self, gathering: Gathering) -> dict[str, int]:
        """Fetch again what may come now, and write the file anew if any image did; counts by state."""
        again = set(passing_failures(self.store, self.shard))
        found = gathering.gather([url for url in self.listed if url.key in again])
        came = {key: f.sha256 for key, f in found.items() if isinstance(f, Screened)}
        if not came:  # other reasons alone are not worth making all later files of the shard again
            stamp = self.store.stamp(Layer.IMAGES, self.shard)
            assert stamp is not None, "only finished shards are tried again"
            return stamp.counts
        before = {image.key: image.sha256 for image in self.store.read(KeptHash, (Layer.IMAGES,), self.shard)}
        rows = heapq.merge(self._old_rows(again), self._rows(found, gathering.spool), key=lambda row: row.key)
        return self._write(rows, before | came, replace=True)

    def _rows(self, found: Mapping[bytes, FetchOutcome], spool: Spool) -> Iterator[Image | Refused]:
        for url in self.listed:
            if outcome := found.get(url.key):
                yield _row(url, outcome, spool)

    def _old_rows(self, without: set[bytes]) -> Iterator[Image | Refused]:
        verdicts = self.store.verdicts(Layer.IMAGES, self.shard).items()
        refused = (Refused(key=key, verdict=verdict) for key, verdict in sorted(verdicts, key=lambda v: v[0]))
        kept: Iterator[Image | Refused] = self.store.read(Image, (Layer.IMAGES,), self.shard)
        rows = heapq.merge(kept, refused, key=lambda row: row.key)
        return (row for row in rows if row.key not in without)

    def _write(self, rows: Iterator[Image | Refused], kept: Mapping[bytes, bytes], replace: bool) -> dict[str, int]:
        stamp = full_stamp(self.begin, kept)
        return self.store.write_outcomes(Layer.IMAGES, self.shard, rows, Image, stamp, replace=replace)


def _row(url: ListedUrl, found: FetchOutcome, spool: Spool) -> Image | Refused:
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
