"""Which rows each batch of a training job holds, from its first to its last: a function of dataset, settings and seed.

Batches are numbered through all epochs. A worker that knows its numbers knows its rows, so a job's position is one
integer and its number of workers may change. An epoch holds each row once.

Reading is what shapes the order. Row groups are shuffled and dealt to a few streams, rows are shuffled within a window
of a stream's row groups, and batch n is of stream n modulo their number: who takes every k-th batch meets few row
groups at a time, and needs each for a short while.
"""

import hashlib
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import lru_cache, partial
from typing import NamedTuple

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from infra.storage import refuse_unreadable
from labeling.errors import ShardCorrupt
from labeling.sdd.membership import own_shards, refuse_mixture, refuse_unlike_ledger
from labeling.sdd.schema import Layer
from labeling.sdd.shards import ShardStore
from training.data.config import DataConfig
from training.data.errors import DatasetError, StorageFault
from training.data.placement import most_held

EPOCHS_KEPT = 2
_READERS = 16
_CORNERS = ("x0", "y0", "x1", "y1")
_COLUMNS = ["width_px", "height_px", *(f"entities.list.element.box.{corner}" for corner in _CORNERS)]
Rows = NDArray[np.uint32]
"""Rows of the dataset, numbered through all shards."""


class PlannedRow(NamedTuple):
    """Where a row is."""

    shard: str
    row_group: int
    row: int
    """Within the row group."""


@dataclass(frozen=True, slots=True)
class PlannedBatch:
    """Rows with equally many subjects."""

    number: int
    """Among the batches of all epochs."""
    epoch: int
    rows: tuple[PlannedRow, ...]
    subjects: int
    """Of each row: as many as it has and a square crop can hold together, but at most `max_subjects`."""


@dataclass(frozen=True, slots=True)
class PlannedShard:
    """What the plan knows of a shard."""

    name: str
    stamp: str
    rows_by_group: tuple[int, ...]
    subjects: NDArray[np.uint8]
    """Of each row."""
    dataset: str | None = None
    """What it has in common with the others, where it says so."""


class Plan:
    """The batches of all epochs.

    Args:
        shards: of the dataset, in order; together they have a row.
    """

    def __init__(self, shards: Sequence[PlannedShard], config: DataConfig, seed: int) -> None:
        self.shards = tuple(shards)
        self.seed = seed
        self.stamp = _stamp(self.shards, config, seed)
        self._batch_size, self._streams, self._window = config.batch_size, config.streams, config.window
        self._subjects = np.concatenate([shard.subjects for shard in shards])
        self._groups = [(shard.name, group) for shard in shards for group in range(len(shard.rows_by_group))]
        ends = np.cumsum([rows for shard in shards for rows in shard.rows_by_group])
        self._first_rows = np.concatenate([[0], ends]).astype(np.uint32)
        self._epoch = lru_cache(EPOCHS_KEPT)(self._drawn)
        self.batches_per_epoch = int(np.ceil(np.bincount(self._subjects) / config.batch_size).sum())
        """The same in every epoch: the rows of one number of subjects make full batches and at most one smaller."""

    @property
    def rows_per_epoch(self) -> int:
        """All rows of the dataset."""
        return len(self._subjects)

    def batch(self, number: int) -> PlannedBatch:
        """Batch `number` of all epochs, from 0."""
        epoch, index = divmod(number, self.batches_per_epoch)
        drawn = self._epoch(epoch)
        rows = drawn.order[drawn.ends[index] : drawn.ends[index + 1]]
        return PlannedBatch(number, epoch, tuple(map(self._place, rows)), int(self._subjects[rows[0]]))

    def _place(self, row: np.uint32) -> PlannedRow:
        group = int(np.searchsorted(self._first_rows, row, side="right")) - 1
        shard, row_group = self._groups[group]
        return PlannedRow(shard, row_group, int(row - self._first_rows[group]))

    def _drawn(self, epoch: int) -> "_Epoch":
        rng = np.random.default_rng([self.seed, epoch])
        groups = rng.permutation(len(self._groups))
        streams = [self._shuffled(groups[stream :: self._streams], rng) for stream in range(self._streams)]
        bucketed = [_bucketed(rows, self._subjects, self._batch_size) for rows in streams]
        turns = np.concatenate([np.arange(len(full)) for full, _ in bucketed])
        body = np.concatenate([full for full, _ in bucketed])[np.argsort(turns, kind="stable")]
        tail = self._tail(np.concatenate([rest for _, rest in bucketed]), rng)
        lengths = [self._batch_size] * len(body) + [len(batch) for batch in tail]
        return _Epoch(np.concatenate([body.ravel(), *tail]), np.concatenate([[0], np.cumsum(lengths)]))

    def _shuffled(self, groups: NDArray[np.int64], rng: np.random.Generator) -> Rows:
        """The rows of a stream, each window shuffled."""
        windows = [groups[start : start + self._window] for start in range(0, len(groups), self._window)]
        return _joined([rng.permutation(_joined([self._rows(group) for group in window])) for window in windows])

    def _rows(self, group: int) -> Rows:
        return np.arange(self._first_rows[group], self._first_rows[group + 1], dtype=np.uint32)

    def _tail(self, rest: Rows, rng: np.random.Generator) -> list[Rows]:
        """What no stream could make a batch of, in batches, at most one of each number of subjects not full."""
        full, short = _bucketed(rest, self._subjects, self._batch_size)
        ends = np.flatnonzero(np.diff(self._subjects[short])) + 1
        batches = [*full, *(part for part in np.split(short, ends) if len(part))]
        return [batches[index] for index in rng.permutation(len(batches))]


class _Epoch(NamedTuple):
    order: Rows
    ends: NDArray[np.int64]
    """Where in `order` each batch begins, and its end."""


def read_plan(config: DataConfig, seed: int) -> Plan:
    """The plan of a job over the dataset that `config` names. Reads footers, sizes and boxes, no pixels.

    Raises:
        DatasetError: there is no dataset, it has no rows, or a shard is damaged, of another version or dataset.
    """
    store = ShardStore(config.dataset)
    names = shard_names(store)
    with ThreadPoolExecutor(_READERS) as readers:
        shards = list(readers.map(partial(planned_shard, store, config.max_subjects), names))
    try:
        refuse_mixture(store, {shard.name: shard.dataset for shard in shards})
    except ShardCorrupt as error:
        raise DatasetError(str(error)) from error
    if not any(len(shard.subjects) for shard in shards):
        raise DatasetError(f"{store.root / Layer.SDD} has no rows in its {len(shards)} shards: every image was dropped")
    return Plan(shards, config, seed)


def shard_names(store: ShardStore) -> list[str]:
    """The shards of the dataset, in order. Lists a folder and reads no file.

    Raises:
        DatasetError: there are none, or a file is none of them.
        SettingsError: the storage does not answer.
    """
    refuse_unreadable(store.root, "training.data.dataset")
    try:
        names = own_shards(store, Layer.SDD)
    except ShardCorrupt as error:
        raise DatasetError(str(error)) from error
    if not names:
        raise DatasetError(
            f"{store.root / Layer.SDD} has no shards: give the root of a dataset that `build` has finished"
        )
    return names


def planned_shard(store: ShardStore, max_subjects: int, name: str) -> PlannedShard:
    """What a plan needs to know of a shard.

    Raises:
        DatasetError: it is gone, damaged, of another version or of another dataset.
        StorageFault: it cannot be read now.
    """
    try:
        with store.open_file(Layer.SDD, name) as file:
            found = store.stamp_of(file, Layer.SDD, name)
            refuse_unlike_ledger(store, name, found)
            groups = tuple(file.metadata.row_group(group).num_rows for group in range(file.num_row_groups))
            subjects = _subjects(file.read(columns=_COLUMNS), max_subjects)
        return PlannedShard(name, found.stamp, groups, subjects, found.dataset)
    except (ShardCorrupt, FileNotFoundError) as error:
        raise DatasetError(str(error)) from error
    except OSError as error:
        raise StorageFault.of(store.path(Layer.SDD, name), error) from error


def _subjects(table: pa.Table, max_subjects: int) -> NDArray[np.uint8]:
    """How many subjects each row of a shard gives to a batch."""
    entities = table["entities"].combine_chunks()
    lengths = entities.value_lengths().to_numpy(zero_copy_only=False)
    corners = entities.flatten().field("box")
    boxes = np.full((len(table), max(lengths, default=0), 4), np.nan, np.float32)
    is_entity = np.arange(boxes.shape[1]) < lengths[:, None]
    boxes[is_entity] = np.stack([corners.field(corner).to_numpy() for corner in _CORNERS], axis=-1)
    width_px, height_px = table["width_px"].to_numpy(), table["height_px"].to_numpy()
    return most_held(boxes, width_px, height_px, max_subjects).astype(np.uint8)


def _bucketed(rows: Rows, subjects: NDArray[np.uint8], size: int) -> tuple[NDArray[np.uint32], Rows]:
    """Full batches [batch, size] of rows with equally many subjects, in the order in which they fill; and the rest."""
    counts = subjects[rows]
    filled, batches, rest = [np.empty(0, np.int64)], [np.empty((0, size), np.uint32)], [np.empty(0, np.uint32)]
    for count in np.unique(counts):
        places = np.flatnonzero(counts == count)
        full = len(places) // size * size
        filled.append(places[size - 1 : full : size])
        batches.append(rows[places[:full]].reshape(-1, size))
        rest.append(rows[places[full:]])
    return np.concatenate(batches)[np.argsort(np.concatenate(filled))], np.concatenate(rest)


def _joined(parts: Sequence[Rows]) -> Rows:
    return np.concatenate([np.empty(0, np.uint32), *parts])


def _stamp(shards: Sequence[PlannedShard], config: DataConfig, seed: int) -> str:
    """12 hex digits that change with the dataset and with whatever else decides which rows a batch holds."""
    order = (seed, config.batch_size, config.max_subjects, config.streams, config.window)
    files = [(shard.name, shard.stamp, shard.rows_by_group) for shard in shards]
    return hashlib.sha256(repr((order, files)).encode()).hexdigest()[:12]
