"""Search for the earliest similar image of each image by the cosine of their embeddings, exact, shard by shard.

Each shard is a job of its own, which compares its images with those of its own and of all earlier shards, one pair of
shards at a time. So memory is bounded by two shards, the work spreads over threads or a Ray cluster, a search that was
killed resumes, and a dataset that grows searches only for its new shards. The time of all shards together grows with
the square of the number of images.
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import ClassVar, NamedTuple, Self

import numpy as np
from numpy.typing import NDArray

from infra.storage import sweep
from labeling.cleaning.embedding import stored_embeddings
from labeling.errors import StageFailed
from labeling.execution.report import ShardReport, failure_report
from labeling.sdd.lock import shard_lock
from labeling.sdd.schema import EMBEDDINGS, SIMILAR, Embedding, SimilarImage, State
from labeling.sdd.shards import ShardStore
from labeling.steps import stamp_of

_CACHED_SHARDS = 64
"""Shards whose embeddings a process keeps: about 100 MB for embeddings of 384 numbers."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SizedImage:
    """Columns that decide which of two images comes first."""

    key: bytes
    width_px: int
    height_px: int


class EmbeddedShard(NamedTuple):
    """Images of a shard that every stage kept, in the order in which they take precedence."""

    keys: list[bytes]
    embeddings: NDArray[np.float32]
    """Embeddings [n, D] of length 1."""


@dataclass
class SimilarImagesJob:
    """Job that makes `similar/`: implements `labeling.execution.run.ShardJob`."""

    root: str
    layers: tuple[str, ...]
    """Layers from images/ to the last stage; images that all of them kept are compared."""
    shards: tuple[str, ...]
    """All shards of the dataset up to the last one that is searched, in order."""
    least_cosine: float
    """Smallest cosine of the embeddings of similar images."""
    stopped: bool = field(default=False, init=False)
    _stamps: dict[str, str] = field(default_factory=dict, init=False)

    name: ClassVar[str] = SIMILAR
    device: ClassVar[None] = None

    def expected_stamp(self, store: ShardStore, shard: str) -> str | None:
        """Return the stamp that the shard's file will have; None while a file that it is made from is missing."""
        if not self._stamps:
            self._stamps = self._chained_stamps(store)
        return self._stamps.get(shard)

    def _chained_stamps(self, store: ShardStore) -> dict[str, str]:
        """Return the stamp of each shard up to the first one that lacks a file."""
        stamps: dict[str, str] = {}
        parent = ""
        for shard in self.shards:
            sources = [store.stamp(layer, shard) for layer in (self.layers[-1], EMBEDDINGS)]
            made_of = [f"{source.stamp} {source.removed}" for source in sources if source]
            if len(made_of) < len(sources):
                break
            parent = stamps[shard] = stamp_of(SIMILAR, f"{self.least_cosine!r} {' '.join(made_of)}", parent)
        return stamps

    def report_of_finished(self, store: ShardStore, shard: str) -> ShardReport | None:
        """Return the report of a shard whose file has the expected stamp; None where there is work to do."""
        existing = store.stamp(SIMILAR, shard)
        if existing is None or existing.stamp != self.expected_stamp(store, shard):
            return None
        return ShardReport(stage=SIMILAR, shard=shard, counts=existing.counts, reused=True)

    def make(self, shard: str) -> ShardReport:
        """Make the shard's file, unless it exists; reports errors instead of raising them."""
        try:
            return self._make(shard)
        except Exception as error:
            return failure_report(SIMILAR, shard, error)

    def for_worker(self, number: int) -> Self:
        """Return the job itself: it has no process."""
        return self

    def close(self) -> None:
        """Do nothing, as there are no processes to end."""

    def stop(self) -> None:
        """Stop before the next pair of shards; called from another thread."""
        self.stopped = True

    def _make(self, shard: str) -> ShardReport:
        store = ShardStore(self.root)
        start, start_thread_s = time.monotonic(), time.thread_time()
        with shard_lock(store.root, SIMILAR, shard):
            stamp = self.expected_stamp(store, shard)
            if stamp is None:
                raise StageFailed(f"{SIMILAR}: {shard} or an earlier shard lacks its file in {EMBEDDINGS}/")
            if finished := self.report_of_finished(store, shard):
                return finished
            sweep(store.path(SIMILAR, shard))
            rows = sorted(self._search(store, shard), key=lambda row: row.key)
            counts = store.write(SIMILAR, shard, rows, SimilarImage, stamp, replace=True)
        seconds, cpu_s = time.monotonic() - start, time.thread_time() - start_thread_s
        counts = {State.KEPT: 0} | counts
        return ShardReport(stage=SIMILAR, shard=shard, counts=counts, seconds=seconds, cpu_s=cpu_s)

    def _search(self, store: ShardStore, shard: str) -> list[SimilarImage]:
        """Return the images of a shard that are similar to an earlier one, with the earliest of them."""
        own = self._read(store, shard)
        rows: list[SimilarImage] = []
        left = np.arange(len(own.keys))
        for earlier in self._until(shard):
            if self.stopped:
                raise StageFailed(f"{SIMILAR}: stopped")
            other = own if earlier == shard else self._read(store, earlier)
            cosines = own.embeddings[left] @ other.embeddings.T if len(other.keys) else np.empty((len(left), 0))
            similar = cosines >= self.least_cosine
            if earlier == shard:
                similar &= np.arange(len(other.keys)) < left[:, None]
            for index in np.flatnonzero(similar.any(axis=1)):
                first = int(similar[index].argmax())
                rows.append(
                    SimilarImage(
                        key=own.keys[left[index]],
                        original=other.keys[first],
                        shard=earlier,
                        cosine=float(cosines[index, first]),
                    )
                )
            left = left[~similar.any(axis=1)]
        return rows

    def _until(self, shard: str) -> Sequence[str]:
        return self.shards[: self.shards.index(shard) + 1]

    def _read(self, store: ShardStore, shard: str) -> EmbeddedShard:
        stamps = tuple(store.stamp(layer, shard) for layer in (self.layers[-1], EMBEDDINGS))
        return _read_shard(self.root, self.layers, shard, str(stamps))


@lru_cache(_CACHED_SHARDS)
def _read_shard(root: str, layers: tuple[str, ...], shard: str, stamps: str) -> EmbeddedShard:
    """Read a shard; `stamps` is part of the cache's key alone."""
    store = ShardStore(root)
    kept = sorted(store.read(SizedImage, layers, shard), key=lambda row: (-row.width_px * row.height_px, row.key))
    by_key = {row.key: row for row in store.read(Embedding, (EMBEDDINGS,), shard)}
    keys = [row.key for row in kept if row.key in by_key]
    return EmbeddedShard(keys, stored_embeddings([by_key[key] for key in keys]))
