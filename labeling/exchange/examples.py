"""Examples of a finished dataset, read shard by shard for an export."""

import hashlib
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from typing import TypeVar

from tqdm import tqdm

from infra.storage import refuse_unreadable
from labeling.errors import ExchangeError
from labeling.execution.record import read_runs
from labeling.sdd.arrow import Record
from labeling.sdd.footer import Stamp
from labeling.sdd.membership import own_shards, refuse_mixture, refuse_unlike_ledger
from labeling.sdd.schema import Entity, Layer, SddRow
from labeling.sdd.shards import ShardStore

R = TypeVar("R")


@dataclass(frozen=True, slots=True, kw_only=True)
class LabelColumns:
    """Columns of sdd/ with the labels of an image, without its pixels."""

    key: bytes
    entities: tuple[Entity, ...]


class Examples:
    """Rows of `sdd/`, in the order of shards and keys. At most one row group of pictures is in memory at a time.

    Args:
        root: folder of the dataset.
        keys: keys of the rows to read; None for all.

    Raises:
        ExchangeError: the dataset has no finished shard, or lacks a key.
        ShardCorrupt: a file is damaged, or not part of the dataset.
    """

    def __init__(self, root: str, keys: Collection[bytes] | None = None) -> None:
        self._store = ShardStore(root)
        refuse_unreadable(self._store.root, "the dataset")
        self._stamps = _checked_stamps(self._store)
        self.count = sum(sum(stamp.counts.values()) for stamp in self._stamps.values())
        """Number of rows."""
        if not self.count:
            raise ExchangeError(f"{root} holds no images in {Layer.SDD}/: `subject-diffusion status {root}` shows why")
        self._keys = None if keys is None else frozenset(keys)
        if self._keys is not None:
            self._refuse_missing(self._keys)
            self.count = len(self._keys)

    @property
    def identity(self) -> str:
        """Stamps of all files, which change with every change of their rows, and a hash of the keys."""
        stamps = " ".join(f"{shard} {stamp.stamp}" for shard, stamp in self._stamps.items())
        return stamps if self._keys is None else f"{stamps} {hashlib.sha256(b''.join(sorted(self._keys))).hexdigest()}"

    @property
    def rules(self) -> Record | None:
        """Rules of the last recorded run, by their names in the settings; None if no run is recorded."""
        settings = next((run.get("settings") for run in reversed(read_runs(self._store.root))), None)
        rules = settings.get("rules") if isinstance(settings, dict) else None
        return rules if isinstance(rules, dict) else None

    def labels(self) -> list[str]:
        """Return the different labels in alphabetical order. Reads no pixels."""
        rows = self._read(LabelColumns)
        return sorted({entity.label for row in rows if self._has(row.key) for entity in row.entities})

    def rows(self) -> Iterator[SddRow]:
        """Yield the rows, and show the progress on a terminal."""
        rows = (row for row in self._read(SddRow) if self._has(row.key))
        return iter(tqdm(rows, "exporting", self.count, unit="img", disable=None))

    def _has(self, key: bytes) -> bool:
        return self._keys is None or key in self._keys

    def _refuse_missing(self, keys: frozenset[bytes]) -> None:
        missing = sorted(keys.difference(*(self._store.keys(Layer.SDD, shard) for shard in self._stamps)))
        if missing:
            raise ExchangeError(
                f"{self._store.root} lacks {len(missing)} of {len(keys)} keys in {Layer.SDD}/, {missing[0].hex()} "
                "first: select kept images only, or correct the keys"
            )

    def _read(self, row: type[R]) -> Iterator[R]:
        for shard in self._stamps:
            yield from self._store.read(row, (Layer.SDD,), shard)


def _checked_stamps(store: ShardStore) -> dict[str, Stamp]:
    stamps: dict[str, Stamp] = {}
    for shard in own_shards(store, Layer.SDD):
        if stamp := store.stamp(Layer.SDD, shard):
            refuse_unlike_ledger(store, shard, stamp)
            stamps[shard] = stamp
    refuse_mixture(store, {shard: stamp.dataset for shard, stamp in stamps.items()})
    return stamps
