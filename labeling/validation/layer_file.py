"""One file of a layer or optional folder as the checks read it: footer, row groups, and rows without pixels."""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import pyarrow as pa
import pyarrow.parquet as pq

from labeling.sdd.arrow import Record, schema_of
from labeling.sdd.footer import Stamp
from labeling.sdd.layers import FOLDERS, HAVE_OUTCOMES
from labeling.sdd.schema import VERSION, State
from labeling.sdd.shards import ShardStore, outcome_schema_of
from labeling.validation.faults import Fault


@dataclass(frozen=True)
class LayerFile:
    """A file of a layer or optional folder, whose footer is readable."""

    store: ShardStore
    layer: str
    shard: str

    @cached_property
    def metadata(self) -> pq.FileMetaData:
        """Footer."""
        with self.store.open_file(self.layer, self.shard) as file:
            return file.metadata

    @cached_property
    def stamp(self) -> Stamp:
        """Entries of the footer."""
        with self.store.open_file(self.layer, self.shard) as file:
            return self.store.stamp_of(file, self.layer, self.shard)

    @cached_property
    def schema(self) -> pa.Schema:
        """Columns and types, without metadata."""
        with self.store.open_file(self.layer, self.shard) as file:
            return file.schema_arrow.remove_metadata()

    @property
    def is_present_version(self) -> bool:
        """Whether the file has the present version of the format."""
        return bool(self.metadata.metadata[b"version"] == str(VERSION).encode())

    @cached_property
    def records(self) -> list[Record]:
        """All rows, without pixels.

        Raises:
            ShardCorrupt: a column is damaged.
        """
        with self.store.open_file(self.layer, self.shard) as file:
            names = [name for name in file.schema_arrow.names if name != "image"]
            records: list[Record] = file.read(columns=names).to_pylist()
            return records

    def pictures(self) -> Iterator[bytes | None]:
        """Yield the encoded image of each row, a row group at a time; None for a row without one.

        Raises:
            ShardCorrupt: the column is damaged.
        """
        with self.store.open_file(self.layer, self.shard) as file:
            for group in range(file.num_row_groups):
                yield from file.read_row_group(group, columns=["image"])["image"].to_pylist()

    def expected_schema(self) -> pa.Schema:
        """Return the columns and types of the layer in the present version of the format."""
        return (outcome_schema_of if self.layer in HAVE_OUTCOMES else schema_of)(FOLDERS[self.layer])

    def is_kept(self, record: Record) -> bool:
        """Return whether the layer kept the image of a row; the rows of urls/, sdd/ and similar/ have no state."""
        return bool(record.get("state", State.KEPT) == State.KEPT)

    def fault(self, message: str, row: int | None = None, column: str = "") -> Fault:
        """Return a fault of the file, or of one of its rows."""
        key = "" if row is None else self.records[row]["key"].hex()
        return Fault(message=message, layer=self.layer, shard=self.shard, row=row, column=column, key=key)
