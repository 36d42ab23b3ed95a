"""Format and readers of caches: the frozen networks' outputs for every row, in files beside the dataset's shards.

    ROOT/cache/NAME/view-000/shard-00000.parquet    one row per row of sdd/, in its order

A view holds the random draws of the epoch with the same number. A file's stamp changes with its shard and with
everything else that determines its content, so a cache of another job is refused.

Axes: R subjects, M twice the latent's channels, P patches.
"""

import hashlib
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial

import numpy as np
from numpy.typing import NDArray

from labeling.errors import ShardCorrupt
from labeling.sdd.arrow import Int32, Key, LargeBytes, row_of
from labeling.sdd.schema import State
from labeling.sdd.shards import OUTCOME, ShardStore
from training.data.config import CacheConfig
from training.data.errors import CacheError, PoisonedRow
from training.data.plan import Plan, PlannedRow
from training.data.rows import LayerFiles, RowGroups
from training.data.sample import EncodedPictures

_READERS = 16
_CURE = "run `subject-diffusion cache` with the settings of this job"


@dataclass(frozen=True, slots=True, kw_only=True)
class Array16:
    """A float16 array."""

    shape: tuple[Int32, ...]
    values: LargeBytes

    @classmethod
    def of(cls, array: NDArray[np.float16]) -> "Array16":
        """Return the array as a value of a row."""
        return cls(shape=array.shape, values=array.tobytes())

    def array(self) -> NDArray[np.float32]:
        """Return the array in float32."""
        return np.frombuffer(self.values, np.float16).reshape(self.shape).astype(np.float32)


@dataclass(frozen=True, slots=True, kw_only=True)
class CachedRow:
    """A row of a cache. A row whose pictures cannot be made has a reason instead."""

    key: Key
    moments: Array16
    """Mean and log-variance of the VAE's posterior of the crop, [M, H, W]."""
    cls: Array16 | None
    """CLS features v_g of the drawn subjects in the order of the row, [R, width]; None in caches without features."""
    patches: Array16 | None
    """Patch features v of the drawn subjects, [R, P, width]; None in caches without features."""


@dataclass(frozen=True, slots=True)
class Cache:
    """A cache that is known to be complete and to belong to this job."""

    config: CacheConfig
    stamps: tuple[Mapping[str, str], ...]
    """Stamps of each view's files, by shard."""

    def view(self, epoch: int) -> int:
        """Return the view that the epoch is trained on."""
        return epoch % self.config.views


def view_layer(config: CacheConfig, view: int) -> str:
    """Return the folder of a view's files, relative to the dataset's root."""
    return f"cache/{config.name}/view-{view:03}"


def cache_stamp(identity: str, seed: int, view: int, shard: str) -> str:
    """Return the stamp that a file of the cache must have.

    Args:
        identity: hash of settings and weights.
        shard: stamp of the dataset's shard.
    """
    return hashlib.sha256(f"{identity} {seed} {view} {shard}".encode()).hexdigest()[:12]


def verify_cache(root: str, config: CacheConfig, plan: Plan, identity: str) -> Cache:
    """Check all files of the cache that `config` names, by their footers, and return the cache.

    Args:
        root: root of the dataset.
        identity: hash of settings and weights.

    Raises:
        CacheError: a file is missing, or belongs to another dataset, other settings or other weights.
    """
    store = ShardStore(root)
    stamps = tuple(
        {shard.name: cache_stamp(identity, plan.seed, view, shard.stamp) for shard in plan.shards}
        for view in range(config.views)
    )
    with ThreadPoolExecutor(_READERS) as readers:
        for view, expected in enumerate(stamps):
            list(readers.map(partial(_check, store, view_layer(config, view)), expected, expected.values()))
    return Cache(config, stamps)


def is_current(store: ShardStore, layer: str, shard: str, stamp: str) -> bool:
    """Return whether a file of a cache exists.

    Raises:
        CacheError: the file exists, but is stale or damaged.
    """
    try:
        existing = store.stamp(layer, shard)
    except ShardCorrupt as error:
        raise CacheError(str(error)) from error
    if existing is not None and existing.stamp != stamp:
        raise CacheError(
            f"{store.path(layer, shard)} is stale (stamped {existing.stamp}, this job's is {stamp}): it was made from "
            f"another dataset, settings or weights; {_CURE} and --rebuild, or set another training.data.cache.name"
        )
    return existing is not None


class CacheReader:
    """Reads rows of a cache.

    Args:
        groups: reader that keeps row groups in memory.
    """

    def __init__(self, groups: RowGroups, cache: Cache) -> None:
        columns = ("key", *OUTCOME, "moments", *(("cls", "patches") if cache.config.features else ()))
        cure = f"{_CURE} and resume"
        self._groups = groups
        self._files = [
            LayerFiles(layer=view_layer(cache.config, view), columns=columns, stamps=stamps, cure=cure)
            for view, stamps in enumerate(cache.stamps)
        ]

    def __call__(self, place: PlannedRow, key: bytes, view: int) -> EncodedPictures | PoisonedRow:
        """Return the features of the row's pictures, or the reason why there are none.

        Raises:
            DatasetError: the file is missing, damaged, or was rewritten since the job started.
        """
        files = self._files[view]
        (record,) = self._groups(files, place.shard, place.row_group).slice(place.row, 1).to_pylist()
        if record["key"] != key:
            raise CacheError(f"{files.layer}/{place.shard} has other rows than its shard: {_CURE} and --rebuild")
        if record["state"] != State.KEPT:
            return PoisonedRow(record["reason"], record["detail"])
        row = row_of(CachedRow, {"cls": None, "patches": None} | record)
        if row.cls is None or row.patches is None:
            return EncodedPictures(row.moments.array())
        return EncodedPictures(row.moments.array(), row.cls.array(), row.patches.array())


def _check(store: ShardStore, layer: str, shard: str, stamp: str) -> None:
    if not is_current(store, layer, shard, stamp):
        raise CacheError(f"{store.path(layer, shard)} is missing: {_CURE}, or train without training.data.cache")
