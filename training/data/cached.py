"""Caches: what the frozen networks said of every row's pictures, in files beside the dataset's shards.

    ROOT/cache/NAME/view-000/shard-00000.parquet    one row per row of sdd/, in its order

A view is one draw of all rows, that of the epoch of the same number. A file's stamp changes with the shard it is of and
with all that decides what is in it: a cache of another job is refused, never trained on.

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
from training.data.rows import Files, RowGroups
from training.data.sample import Encoded

_READERS = 16
_CURE = "run `subject-diffusion cache` with the settings of this job"


@dataclass(frozen=True, slots=True, kw_only=True)
class Array16:
    """An array of float16."""

    shape: tuple[Int32, ...]
    values: LargeBytes

    @classmethod
    def of(cls, array: NDArray[np.float16]) -> "Array16":
        """The array as a value of a row."""
        return cls(shape=array.shape, values=array.tobytes())

    def array(self) -> NDArray[np.float32]:
        """What the network computes with."""
        return np.frombuffer(self.values, np.float16).reshape(self.shape).astype(np.float32)


@dataclass(frozen=True, slots=True, kw_only=True)
class CachedRow:
    """A row of a cache. One whose pictures cannot be made has the reason instead."""

    key: Key
    moments: Array16
    """[M, H, W]: mean and log-variance of the VAE's posterior of the crop."""
    cls: Array16 | None
    """[R, width]: v_g of the drawn subjects, in the order of the row; None where features are not kept."""
    patches: Array16 | None
    """[R, P, width]: v of them."""


@dataclass(frozen=True, slots=True)
class Cache:
    """A cache that is known to be whole and of this job."""

    config: CacheConfig
    stamps: tuple[Mapping[str, str], ...]
    """Of each view's files, by shard."""

    def view(self, epoch: int) -> int:
        """What the epoch is trained on."""
        return epoch % self.config.views


def layer_of(config: CacheConfig, view: int) -> str:
    """The folder of a view's files, within the dataset's."""
    return f"cache/{config.name}/view-{view:03}"


def stamp_of(identity: str, seed: int, view: int, shard: str) -> str:
    """The stamp that a file must have.

    Args:
        identity: of settings and weights.
        shard: stamp of the dataset's shard.
    """
    return hashlib.sha256(f"{identity} {seed} {view} {shard}".encode()).hexdigest()[:12]


def whole_cache(root: str, config: CacheConfig, plan: Plan, identity: str) -> Cache:
    """The cache that `config` names. Reads footers.

    Args:
        root: of the dataset.
        identity: of settings and weights.

    Raises:
        CacheError: a file is missing, or is of another dataset, other settings or other weights.
    """
    store = ShardStore(root)
    stamps = tuple(
        {shard.name: stamp_of(identity, plan.seed, view, shard.stamp) for shard in plan.shards}
        for view in range(config.views)
    )
    with ThreadPoolExecutor(_READERS) as readers:
        for view, expected in enumerate(stamps):
            list(readers.map(partial(_check, store, layer_of(config, view)), expected, expected.values()))
    return Cache(config, stamps)


def is_made(store: ShardStore, layer: str, shard: str, stamp: str) -> bool:
    """Whether a file of a cache is there.

    Raises:
        CacheError: it is, of another stamp or damaged.
    """
    try:
        found = store.stamp(layer, shard)
    except ShardCorrupt as error:
        raise CacheError(str(error)) from error
    if found is not None and found.stamp != stamp:
        raise CacheError(
            f"{store.path(layer, shard)} is stale (stamped {found.stamp}, this job's is {stamp}): it was made of "
            f"another dataset, settings or weights; {_CURE} and --rebuild, or give another training.data.cache.name"
        )
    return found is not None


class CacheReader:
    """Reads rows of a cache.

    Args:
        groups: keeps the row groups.
    """

    def __init__(self, groups: RowGroups, cache: Cache) -> None:
        columns = ("key", *OUTCOME, "moments", *(("cls", "patches") if cache.config.features else ()))
        cure = f"{_CURE} and resume"
        self._groups = groups
        self._files = [
            Files(layer=layer_of(cache.config, view), columns=columns, stamps=stamps, cure=cure)
            for view, stamps in enumerate(cache.stamps)
        ]

    def __call__(self, place: PlannedRow, key: bytes, view: int) -> Encoded | PoisonedRow:
        """What was said of the row's pictures, or why there are none.

        Raises:
            DatasetError: the file is gone, damaged, or was made anew since the job began.
        """
        files = self._files[view]
        (record,) = self._groups(files, place.shard, place.row_group).slice(place.row, 1).to_pylist()
        if record["key"] != key:
            raise CacheError(f"{files.layer}/{place.shard} has other rows than its shard: {_CURE} and --rebuild")
        if record["state"] != State.KEPT:
            return PoisonedRow(record["reason"], record["detail"])
        row = row_of(CachedRow, {"cls": None, "patches": None} | record)
        if row.cls is None or row.patches is None:
            return Encoded(row.moments.array())
        return Encoded(row.moments.array(), row.cls.array(), row.patches.array())


def _check(store: ShardStore, layer: str, shard: str, stamp: str) -> None:
    if not is_made(store, layer, shard, stamp):
        raise CacheError(f"{store.path(layer, shard)} is not there: {_CURE}, or train without training.data.cache")
