"""Plans the rows of every batch of a training job, as a function of dataset, settings and seed.

Batches are numbered through all epochs. A worker derives its rows from the numbers of its batches, so a job's position
is one integer and the number of workers may change. An epoch holds each row once.

The order is made for reading by row groups. Row groups are shuffled and dealt to a few streams, rows are shuffled
within a window of a stream's row groups, and batch n belongs to stream n modulo the number of streams. A process that
takes every k-th batch therefore reads few row groups at a time, and needs each only for a short while.
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
from training.data.placement import crop_capacity

EPOCHS_KEPT = 2
_READERS = 16
_CORNERS = ("x0", "y0", "x1", "y1")
_COLUMNS = ["width_px", "height_px", *(f"entities.list.element.box.{corner}" for corner in _CORNERS)]
RowNumbers = NDArray[np.uint32]
"""Numbers of rows of the dataset, counted through all shards."""


class PlannedRow(NamedTuple):
    """Place of a row in the dataset."""

    shard: str
    row_group: int
    row: int
    """Index within the row group."""


@dataclass(frozen=True, slots=True)
class PlannedBatch:
    """Rows with the same number of subjects."""

    number: int
    """Number of the batch, counted through all epochs."""
    epoch: int
    rows: tuple[PlannedRow, ...]
    subjects: int
    """Number of subjects of each row: as many as a square crop can hold together, at most `max_subjects`."""


@dataclass(frozen=True, slots=True)
class PlannedShard:
    """Facts about a shard that the plan depends on."""

    name: str
    stamp: str
    rows_by_group: tuple[int, ...]
    """Number of rows of each row group."""
    subjects: NDArray[np.uint8]
    """Number of subjects of each row."""
    dataset: str | None = None
    """Identifier that all shards of a dataset share; None in shards that have none."""


class Plan:
    """The batches of all epochs.

    Args:
        shards: shards of the dataset, in order; at least one has a row.
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
        self._epoch = lru_cache(EPOCHS_KEPT)(self._draw_epoch)
        self.batches_per_epoch = int(np.ceil(np.bincount(self._subjects) / config.batch_size).sum())
        """Number of batches of an epoch. For each number of subjects, at most one batch is not full."""

    @property
    def rows_per_epoch(self) -> int:
        """Number of rows of the dataset."""
        return len(self._subjects)

    def batch(self, number: int) -> PlannedBatch:
        """Return batch `number`, counted from 0 through all epochs."""
        epoch, index = divmod(number, self.batches_per_epoch)
        order = self._epoch(epoch)
        rows = order.rows[order.ends[index] : order.ends[index + 1]]
        return PlannedBatch(number, epoch, tuple(map(self._place, rows)), int(self._subjects[rows[0]]))

    def _place(self, row: np.uint32) -> PlannedRow:
        group = int(np.searchsorted(self._first_rows, row, side="right")) - 1
        shard, row_group = self._groups[group]
        return PlannedRow(shard, row_group, int(row - self._first_rows[group]))

    def _draw_epoch(self, epoch: int) -> "_EpochOrder":
        rng = np.random.default_rng([self.seed, epoch])
        groups = rng.permutation(len(self._groups))
        streams = [self._shuffle_stream(groups[stream :: self._streams], rng) for stream in range(self._streams)]
        buckets = [_bucket(rows, self._subjects, self._batch_size) for rows in streams]
        rounds = np.concatenate([np.arange(len(full)) for full, _ in buckets])
        body = np.concatenate([full for full, _ in buckets])[np.argsort(rounds, kind="stable")]
        tail = self._tail(np.concatenate([rest for _, rest in buckets]), rng)
        lengths = [self._batch_size] * len(body) + [len(batch) for batch in tail]
        return _EpochOrder(np.concatenate([body.ravel(), *tail]), np.concatenate([[0], np.cumsum(lengths)]))

    def _shuffle_stream(self, groups: NDArray[np.int64], rng: np.random.Generator) -> RowNumbers:
        """Return the rows of a stream, shuffled within each window."""
        windows = [groups[start : start + self._window] for start in range(0, len(groups), self._window)]
        return _concatenate(
            [rng.permutation(_concatenate([self._rows(group) for group in window])) for window in windows]
        )

    def _rows(self, group: int) -> RowNumbers:
        return np.arange(self._first_rows[group], self._first_rows[group + 1], dtype=np.uint32)

    def _tail(self, rest: RowNumbers, rng: np.random.Generator) -> list[RowNumbers]:
        """Return the rows that filled no batch of a stream, in shuffled batches.

        For each number of subjects, at most one of the batches is not full.
        """
        full, short = _bucket(rest, self._subjects, self._batch_size)
        ends = np.flatnonzero(np.diff(self._subjects[short])) + 1
        batches = [*full, *(part for part in np.split(short, ends) if len(part))]
        return [batches[index] for index in rng.permutation(len(batches))]


class _EpochOrder(NamedTuple):
    rows: RowNumbers
    """All rows, in the order of the batches."""
    ends: NDArray[np.int64]
    """Index in `rows` at which each batch begins, followed by the number of rows."""


def read_plan(config: DataConfig, seed: int) -> Plan:
    """Return the plan of a job over the dataset that `config` names. Reads footers, sizes and boxes, but no pixels.

    Raises:
        DatasetError: the dataset is missing or empty, or a shard is damaged, of another version or of another dataset.
    """
    store = ShardStore(config.dataset)
    names = shard_names(store)
    with ThreadPoolExecutor(_READERS) as readers:
        shards = list(readers.map(partial(plan_shard, store, config.max_subjects), names))
    try:
        refuse_mixture(store, {shard.name: shard.dataset for shard in shards})
    except ShardCorrupt as error:
        raise DatasetError(str(error)) from error
    if not any(len(shard.subjects) for shard in shards):
        raise DatasetError(f"the {len(shards)} shards of {store.root / Layer.SDD} are empty: every image was dropped")
    return Plan(shards, config, seed)


def shard_names(store: ShardStore) -> list[str]:
    """Return the names of the dataset's shards, in order. Lists a folder and reads no file.

    Raises:
        DatasetError: there are no shards, or a file in the folder does not belong to them.
        SettingsError: the storage does not answer.
    """
    refuse_unreadable(store.root, "training.data.dataset")
    try:
        names = own_shards(store, Layer.SDD)
    except ShardCorrupt as error:
        raise DatasetError(str(error)) from error
    if not names:
        raise DatasetError(
            f"{store.root / Layer.SDD} has no shards. Set training.data.dataset to a dataset that `build` has finished"
        )
    return names


def plan_shard(store: ShardStore, max_subjects: int, name: str) -> PlannedShard:
    """Read the facts about a shard that the plan depends on.

    Raises:
        DatasetError: the shard is missing, damaged, of another version or of another dataset.
        StorageFault: the storage failed.
    """
    try:
        with store.open_file(Layer.SDD, name) as file:
            stamp = store.stamp_of(file, Layer.SDD, name)
            refuse_unlike_ledger(store, name, stamp)
            groups = tuple(file.metadata.row_group(group).num_rows for group in range(file.num_row_groups))
            subjects = _subjects(file.read(columns=_COLUMNS), max_subjects)
        return PlannedShard(name, stamp.stamp, groups, subjects, stamp.dataset)
    except (ShardCorrupt, FileNotFoundError) as error:
        raise DatasetError(str(error)) from error
    except OSError as error:
        raise StorageFault.of(store.path(Layer.SDD, name), error) from error


def _subjects(table: pa.Table, max_subjects: int) -> NDArray[np.uint8]:
    """Return the number of subjects that each row of a shard contributes to a batch."""
    entities = table["entities"].combine_chunks()
    lengths = entities.value_lengths().to_numpy(zero_copy_only=False)
    corners = entities.flatten().field("box")
    boxes = np.full((len(table), max(lengths, default=0), 4), np.nan, np.float32)
    is_entity = np.arange(boxes.shape[1]) < lengths[:, None]
    boxes[is_entity] = np.stack([corners.field(corner).to_numpy() for corner in _CORNERS], axis=-1)
    width_px, height_px = table["width_px"].to_numpy(), table["height_px"].to_numpy()
    return crop_capacity(boxes, width_px, height_px, max_subjects).astype(np.uint8)


def _bucket(rows: RowNumbers, subjects: NDArray[np.uint8], size: int) -> tuple[NDArray[np.uint32], RowNumbers]:
    """Group rows by their number of subjects into batches.

    Returns:
        The full batches [batch, size], in the order in which they fill, and the rows that are left.
    """
    counts = subjects[rows]
    filled, batches, rest = [np.empty(0, np.int64)], [np.empty((0, size), np.uint32)], [np.empty(0, np.uint32)]
    for count in np.unique(counts):
        places = np.flatnonzero(counts == count)
        full = len(places) // size * size
        filled.append(places[size - 1 : full : size])
        batches.append(rows[places[:full]].reshape(-1, size))
        rest.append(rows[places[full:]])
    return np.concatenate(batches)[np.argsort(np.concatenate(filled))], np.concatenate(rest)


def _concatenate(parts: Sequence[RowNumbers]) -> RowNumbers:
    return np.concatenate([np.empty(0, np.uint32), *parts])


def _stamp(shards: Sequence[PlannedShard], config: DataConfig, seed: int) -> str:
    """Return 12 hex digits that change with the dataset and with all settings that affect the rows of a batch."""
    order = (seed, config.batch_size, config.max_subjects, config.streams, config.window)
    files = [(shard.name, shard.stamp, shard.rows_by_group) for shard in shards]
    return hashlib.sha256(repr((order, files)).encode()).hexdigest()[:12]
