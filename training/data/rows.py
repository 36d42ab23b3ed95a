"""Reads planned rows of the dataset by row groups, and keeps the last row groups in memory."""

from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass

import pyarrow as pa

from labeling.errors import ShardCorrupt
from labeling.sdd.arrow import Int32, Key, LargeBytes, names_of, row_of
from labeling.sdd.schema import Entity, Layer
from labeling.sdd.shards import ShardStore
from training.data.errors import DatasetError, StorageFault
from training.data.plan import PlannedRow


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingRow:
    """The columns of `SddRow` that training reads."""

    key: Key
    caption: str
    entities: tuple[Entity, ...]
    width_px: Int32
    height_px: Int32
    image: LargeBytes | None
    """Encoded image; None where rows are read without images."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LayerFiles:
    """The files of a layer at the start of the job, and the columns to read from them."""

    layer: str
    columns: tuple[str, ...]
    stamps: Mapping[str, str]
    """Stamp of each file, by shard."""
    cure: str
    """Advice for the error message when a file is missing."""


class RowGroups:
    """Reads row groups of a dataset's files and keeps the last ones in memory.

    Args:
        kept_bytes: largest total size of the row groups that are kept; a single larger one is kept all the same.
    """

    def __init__(self, root: str, kept_bytes: int) -> None:
        self._store = ShardStore(root)
        self._kept_bytes = kept_bytes
        self.kept: OrderedDict[tuple[str, str, int], pa.Table] = OrderedDict()

    def __call__(self, files: LayerFiles, shard: str, row_group: int) -> pa.Table:
        """Return a row group with the columns of `files`.

        Raises:
            DatasetError: the file is missing, damaged, or was rewritten since the job started.
            StorageFault: the storage failed.
        """
        name = (files.layer, shard, row_group)
        if name not in self.kept:
            self.kept[name] = self._read(files, shard, row_group)
            while len(self.kept) > 1 and sum(table.nbytes for table in self.kept.values()) > self._kept_bytes:
                self.kept.popitem(last=False)
        self.kept.move_to_end(name)
        return self.kept[name]

    def _read(self, files: LayerFiles, shard: str, row_group: int) -> pa.Table:
        path = self._store.path(files.layer, shard)
        try:
            with self._store.open_file(files.layer, shard) as file:
                if self._store.stamp_of(file, files.layer, shard).stamp != files.stamps[shard]:
                    raise DatasetError(f"{path} was rewritten after this job read its plan. Start the job again")
                return file.read_row_group(row_group, columns=list(files.columns), use_threads=False)
        except FileNotFoundError as error:
            raise DatasetError(f"{path} is missing: {files.cure}") from error
        except ShardCorrupt as error:
            raise DatasetError(str(error)) from error
        except OSError as error:
            raise StorageFault.of(path, error) from error


class RowReader:
    """Reads planned rows.

    Args:
        stamps: stamps of the shards at the time of planning, by name.
        kept_bytes: largest total size of the row groups that are kept; a single larger one is kept all the same.
        images: whether to read the images.
    """

    def __init__(self, root: str, stamps: Mapping[str, str], kept_bytes: int, images: bool = True) -> None:
        self.groups = RowGroups(root, kept_bytes)
        columns = tuple(name for name in names_of(TrainingRow) if images or name != "image")
        cure = "put it back and resume, or train on another dataset"
        self._files = LayerFiles(layer=Layer.SDD, columns=columns, stamps=stamps, cure=cure)

    def key(self, place: PlannedRow) -> bytes:
        """Return the row's key.

        Raises:
            DatasetError: the shard is missing, damaged, or was rewritten since the plan was read.
        """
        key: bytes = self._row_group(place)["key"][place.row].as_py()
        return key

    def row(self, place: PlannedRow) -> TrainingRow:
        """Return the row.

        Raises:
            DatasetError: as `key`.
        """
        (record,) = self._row_group(place).slice(place.row, 1).to_pylist()
        return row_of(TrainingRow, {"image": None} | record)

    def _row_group(self, place: PlannedRow) -> pa.Table:
        return self.groups(self._files, place.shard, place.row_group)
