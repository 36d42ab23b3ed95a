"""Rows of the dataset as the plan names them, read by the row group, of which the last are kept."""

from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass

import pyarrow as pa

from labeling.errors import ShardCorrupt
from labeling.sdd.arrow import Int32, Key, LargeBytes, names_of, row_of
from labeling.sdd.schema import Entity
from labeling.sdd.shards import ShardStore
from training.data.errors import DatasetError
from training.data.plan import LAYER, PlannedRow


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingRow:
    """The columns of `SddRow` that training reads."""

    key: Key
    caption: str
    entities: tuple[Entity, ...]
    width_px: Int32
    height_px: Int32
    image: LargeBytes


class RowReader:
    """Reads planned rows.

    Args:
        stamps: of the shards that the plan was made of, by name.
        kept_bytes: of row groups; more are kept only while they are one.
    """

    def __init__(self, root: str, stamps: Mapping[str, str], kept_bytes: int) -> None:
        self._store = ShardStore(root)
        self._stamps = stamps
        self._kept_bytes = kept_bytes
        self._kept: OrderedDict[tuple[str, int], pa.Table] = OrderedDict()

    def key(self, place: PlannedRow) -> bytes:
        """The row's key.

        Raises:
            DatasetError: the shard is gone, damaged, or was made anew since the plan was read.
        """
        key: bytes = self._row_group(place)["key"][place.row].as_py()
        return key

    def row(self, place: PlannedRow) -> TrainingRow:
        """The row.

        Raises:
            DatasetError: as `key`.
        """
        (record,) = self._row_group(place).slice(place.row, 1).to_pylist()
        return row_of(TrainingRow, record)

    def _row_group(self, place: PlannedRow) -> pa.Table:
        name = (place.shard, place.row_group)
        if name not in self._kept:
            self._kept[name] = self._read(*name)
            while len(self._kept) > 1 and sum(table.nbytes for table in self._kept.values()) > self._kept_bytes:
                self._kept.popitem(last=False)
        self._kept.move_to_end(name)
        return self._kept[name]

    def _read(self, shard: str, row_group: int) -> pa.Table:
        path = self._store.path(LAYER, shard)
        try:
            with self._store.opened(LAYER, shard) as file:
                if self._store.stamp_of(file, LAYER, shard).stamp != self._stamps[shard]:
                    raise DatasetError(f"{path} was made anew since this job read its plan: start the job again")
                return file.read_row_group(row_group, columns=list(names_of(TrainingRow)), use_threads=False)
        except FileNotFoundError as error:
            raise DatasetError(f"{path} is gone: put it back and resume, or train on another dataset") from error
        except ShardCorrupt as error:
            raise DatasetError(str(error)) from error
        except OSError as error:
            raise DatasetError(f"{path} cannot be read ({error}): see to the storage and resume") from error
