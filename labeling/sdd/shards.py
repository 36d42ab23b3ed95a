"""Shards: one Parquet file per layer and shard, written whole or not at all, stamped with the settings that made it.

    ROOT/urls/        the list                      one row per input URL
    ROOT/images/      downloaded images             one row per input URL
    ROOT/captions/    nouns/ detections/ entities/  one row per image that the layer before kept
    ROOT/sdd/         the dataset                   kept images only
    ROOT/ledger/      the verdict on each URL       one row per input URL

A layer keeps the format version of its existing files, so that other programs read it as one table; a layer without
files begins with the present version.

Rows are in the order of their keys. The layers from images/ to entities/ hold *outcomes*: a row's payload columns are
null if its `state` is not `kept`, unless the stage has results for a refused image too, such as the removed nouns of
nouns/.
"""

import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import dataclass
from itertools import chain, islice
from pathlib import Path
from typing import IO, NamedTuple, TypeVar

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from upath import UPath

from infra.storage import is_local, open_binary, publish, storage_path
from labeling.errors import ShardCorrupt, ShardStale
from labeling.sdd.arrow import (
    Record,
    dictionary_paths,
    former_names,
    leaf_paths,
    names_of,
    optional_names,
    record_of,
    row_of,
    schema_of,
)
from labeling.sdd.file_index import Identity, index_of
from labeling.sdd.footer import Stamp, stamp_in
from labeling.sdd.schema import CONFIRMATIONS, EMBEDDINGS, READABLE, VERSION, Layer, State, Verdict
from labeling.sdd.seal import seal

R = TypeVar("R")
ROWS_PER_GROUP = 64
"""Rows that one random read loads: about 19 MB of JPEG."""
OUTCOME = ("state", "reason", "detail")
"""Columns of a verdict."""
PARENTS: dict[str, Layer] = {
    Layer.IMAGES: Layer.URLS,
    Layer.CAPTIONS: Layer.IMAGES,
    Layer.NOUNS: Layer.CAPTIONS,
    Layer.DETECTIONS: Layer.NOUNS,
    Layer.ENTITIES: Layer.DETECTIONS,
    Layer.SDD: Layer.ENTITIES,
    Layer.LEDGER: Layer.ENTITIES,
    EMBEDDINGS: Layer.IMAGES,
    CONFIRMATIONS: Layer.ENTITIES,
}
"""The layer that each layer or optional folder is made from; none for similar/, which is made of several shards."""
FIRST = "shard-00000"
"""First shard of every dataset."""
_DAMAGE = (pa.ArrowInvalid, pa.ArrowNotImplementedError, pa.ArrowKeyError, pa.ArrowTypeError, UnicodeDecodeError)
"""Exceptions of pyarrow for a damaged file, beside an OSError without a number."""
_SHARD = re.compile(r"shard-\d{5,}")


class Format(NamedTuple):
    """Format of the files of a layer."""

    schema: pa.Schema
    version: int
    names: Mapping[str, str]
    """Former names of renamed fields, by their present names."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Refused:
    """An image that leaves the dataset."""

    key: bytes
    verdict: Verdict
    row: object = None
    """Payload, if the stage has results for a refused image; else None."""


class ShardStore:
    """Files of a dataset in a folder: their names, stamps and rows."""

    def __init__(self, root: str) -> None:
        self.root = storage_path(root)
        self.index = index_of(str(self.root))
        self._known_formats: dict[tuple[str, Identity], Format] = {}

    def path(self, layer: str, shard: str) -> UPath:
        """Return the path of a file, which need not exist."""
        return self.root / layer / f"{shard}.parquet"

    def shards(self, layer: str) -> list[str]:
        """Return the shards that have a file in the layer, in order; other file names are ignored."""
        return [name for name in self.names(layer) if is_shard_name(name)]

    def names(self, layer: str) -> list[str]:
        """Return the names of all Parquet files of the layer without their suffix, in order."""
        return sorted(self.index.names(layer))

    def dataset(self) -> str | None:
        """Return the identifier that all files of this dataset share; None if no file has one.

        It is the stamp of the first shard of its first list, which later files inherit.
        """
        for layer in Layer:
            with suppress(ShardCorrupt):
                stamp = self.stamp(layer, FIRST)
                if inherited := stamp and (stamp.dataset or (stamp.stamp if layer == Layer.URLS else None)):
                    return inherited
        return None

    def stamp(self, layer: str, shard: str) -> Stamp | None:
        """Return the file's stamp and counts; None if there is no file.

        Raises:
            ShardCorrupt: another program made the file, or its format version is unknown.
        """
        identity = self.index.identity(layer, shard)
        if known := self.index.find(layer, shard, identity):
            return known.stamp
        try:
            with self.open_file(layer, shard) as file:
                stamp = self.stamp_of(file, layer, shard)
        except FileNotFoundError:
            return None
        self.index.add(layer, shard, identity, stamp)
        return stamp

    def stamp_of(self, file: pq.ParquetFile, layer: str, shard: str) -> Stamp:
        """Return the stamp of a file that `open_file` opened: see `stamp`."""
        self._version_of(file, layer, shard)
        path = self.path(layer, shard)
        try:
            stamp = stamp_in(file.metadata.metadata)
        except ValueError as error:
            raise ShardCorrupt(f"{path} is damaged ({error}): move it away and run again") from error
        if stamp.name not in (None, _name(layer, shard)):
            raise ShardCorrupt(
                f"{path} was written as {stamp.name}.parquet, so it was renamed or swapped: restore its name, or "
                "move it away and run again"
            )
        return stamp

    def version(self, layer: str) -> int | None:
        """Return the format version of the layer's files; None if it has none."""
        return next((version for version, _ in self._formats(layer)), None)

    def open_file(self, layer: str, shard: str) -> AbstractContextManager[pq.ParquetFile]:
        """Open a file to read single row groups.

        Raises:
            FileNotFoundError: there is no such file.
            ShardCorrupt: a part that is read is damaged.
        """
        return open_parquet(self.path(layer, shard))

    def has(self, layer: str, shard: str, stamp: str) -> bool:
        """Return whether the file exists with this stamp.

        Raises:
            ShardStale: it has another stamp.
            ShardCorrupt: it belongs to another dataset.
        """
        former = self.stamp(layer, shard)
        if former is None:
            return False
        if former.stamp != stamp:
            if former.dataset not in (None, dataset := self.dataset()):
                raise ShardCorrupt(
                    f"{self.path(layer, shard)} is of the dataset {former.dataset}, this one is {dataset}: move it away"
                )
            raise ShardStale(
                f"{self.path(layer, shard)} is stamped {former.stamp}, this run's stamp is {stamp}: it was made "
                "under other settings. Give a new root, or replace it with --set labeling.stale=rebuild"
            )
        return True

    def read(self, row: type[R], layers: Sequence[str], shard: str) -> Iterator[R]:
        """Read the images that the last of `layers` kept, with the columns of `row` from the layers that have them.

        If `row` has the column `state`, as the ledger's does, all images are read. Reads only the columns of `row`, and
        pictures one row group at a time.

        Raises:
            ShardCorrupt: the layers together lack a column of `row`, or a layer lacks an image.
        """
        wanted = names_of(row)
        kept = self._kept_keys(layers[-1], shard, any_state="state" in wanted)
        homes = self._columns_by_layer(row, layers, shard)
        tables = {
            layer: {record["key"]: record for record in self._records(layer, shard, names)}
            for layer, names in homes.items()
            if "image" not in names
        }
        for key, record in self._stream_pictures(homes, kept, shard):
            for layer, by_key in tables.items():
                if key not in by_key:
                    raise ShardCorrupt(f"{self.path(layer, shard)} lacks the image {key.hex()} of {layers[-1]}/")
                record |= by_key[key]
            yield row_of(row, record)

    def keys(self, layer: str, shard: str) -> list[bytes]:
        """Return the keys of all rows of a file."""
        return [record["key"] for record in self._records(layer, shard, ["key"])]

    def verdicts(self, layer: str, shard: str) -> dict[bytes, Verdict]:
        """Return the layer's verdicts on the images that it refused."""
        records = self._records(layer, shard, ["key", *OUTCOME])
        return {
            r["key"]: Verdict(state=r["state"], reason=r["reason"], detail=r["detail"])
            for r in records
            if r["state"] != State.KEPT
        }

    def write(
        self, layer: str, shard: str, rows: Iterable[object], row: type, stamp: str, *, replace: bool = False
    ) -> dict[str, int]:
        """Write `rows`, instances of `row` in the order of their keys, and return the counts by state.

        Raises:
            FileExistsError: the file exists and `replace` is false.
        """
        layout = self._format(layer, shard, row, schema_of(row))
        records = (record_of(r, layout.names) for r in rows)
        return self._write(layer, shard, _groups(records, layout.schema), layout, row, stamp, replace)

    def write_table(
        self, layer: str, shard: str, table: pa.Table, row: type, stamp: str, *, replace: bool = False
    ) -> dict[str, int]:
        """Write a table with the columns of `row`, in the order of its keys, as `write` does, in one row group.

        Raises:
            FileExistsError: the file exists and `replace` is false.
        """
        layout = self._format(layer, shard, row, schema_of(row))
        table = table.rename_columns([layout.names.get(name, name) for name in table.column_names])
        return self._write(layer, shard, [table.select(layout.schema.names)], layout, row, stamp, replace)

    def write_outcomes(
        self, layer: str, shard: str, rows: Iterable[object], row: type, stamp: str, *, replace: bool = False
    ) -> dict[str, int]:
        """Write `rows`, each an instance of `row` or `Refused`, in the order of their keys; returns counts by state.

        Raises:
            FileExistsError: the file exists and `replace` is false.
        """
        layout = self._format(layer, shard, row, outcome_schema_of(row))
        records = (_outcome_record(r, layout.names) for r in rows)
        return self._write(layer, shard, _groups(records, layout.schema), layout, row, stamp, replace)

    def rewrite(
        self,
        layer: str,
        shard: str,
        row: type,
        change: Callable[[Record], Record | None],
        *,
        stamp: str,
        removed: str | None = None,
    ) -> None:
        """Replace a file by its changed rows. Its format and its other footer entries stay the same.

        Args:
            layer: layer of the file.
            shard: shard of the file.
            row: row class of the layer.
            change: function that returns the changed record, or None to leave it out.
            stamp: stamp of the new file.
            removed: hash of the keys that were removed from the shard.

        Raises:
            FileNotFoundError: there is no such file.
            ShardCorrupt: the file is damaged.
        """
        with self.open_file(layer, shard) as file:
            former = self.stamp_of(file, layer, shard)
            layout = Format(file.schema_arrow.remove_metadata(), self._version_of(file, layer, shard), {})
            former_groups = (file.read_row_group(group).to_pylist() for group in range(file.num_row_groups))
            former_records = (record for group in former_groups for record in group)
            records = (changed for record in former_records if (changed := change(record)) is not None)
            about = former._replace(stamp=stamp, name=_name(layer, shard), removed=removed)
            groups = _groups(records, layout.schema)
            self._publish(layer, shard, groups, layout, row, about, replace=True)

    def _write(
        self,
        layer: str,
        shard: str,
        groups: Iterable[pa.Table],
        layout: Format,
        row: type,
        stamp: str,
        replace: bool,
    ) -> dict[str, int]:
        parent = self.stamp(PARENTS[layer], shard) if layer in PARENTS else None
        dataset = self.dataset() or (stamp if (layer, shard) == (Layer.URLS, FIRST) else None)
        about = Stamp(stamp, {}, dataset=dataset, name=_name(layer, shard))
        if parent:
            about = about._replace(parent=parent.stamp, removed=parent.removed)
        return self._publish(layer, shard, groups, layout, row, about, replace)

    def _publish(
        self,
        layer: str,
        shard: str,
        groups: Iterable[pa.Table],
        layout: Format,
        row: type,
        about: Stamp,
        replace: bool,
    ) -> dict[str, int]:
        """Write a file of these row groups with the footer entries of `about`, and return the counts by state."""
        counts: Counter[str] = Counter()

        def write(file: IO[bytes]) -> None:
            with _writer(file, layout.schema, row) as writer:
                for group in _check_key_order(groups, f"{layer}/{shard}"):
                    writer.write_table(group)
                    counts.update(_count_states(group))
                entries = about._replace(counts=counts).metadata()
                writer.add_key_value_metadata(entries | {"version": str(layout.version)})
            seal(file)

        publish(self.path(layer, shard), write, replace=replace)
        return dict(counts)  # `asdict` of a report cannot copy a Counter

    def _format(self, layer: str, shard: str, row: type, schema: pa.Schema) -> Format:
        """Return the format of the layer's other files, or the present one if there are none."""
        first = self.index.identity(layer, FIRST) if shard != FIRST else None
        if first is not None and (layer, first) in self._known_formats:
            return self._known_formats[layer, first]
        version, existing = next(self._formats(layer, without=shard), (VERSION, schema))
        layout = Format(schema, VERSION, {})
        if version != VERSION:
            layout = Format(existing.remove_metadata(), version, former_names(row) if version == 1 else {})
        if first is not None:
            self._known_formats[layer, first] = layout
        return layout

    def _formats(self, layer: str, without: str = "") -> Iterator[tuple[int, pa.Schema]]:
        """Yield version and schema of the layer's files except one; damaged files are refused when they are read.

        The first shard is tried before the folder is listed, which may hold many thousands.
        """
        for shard in chain([FIRST], self._later_shards(layer)):
            with suppress(ShardCorrupt, FileNotFoundError):
                if shard != without:
                    with self.open_file(layer, shard) as file:
                        yield self._version_of(file, layer, shard), file.schema_arrow

    def _later_shards(self, layer: str) -> Iterator[str]:
        yield from (shard for shard in self.shards(layer) if shard != FIRST)

    def _version_of(self, file: pq.ParquetFile, layer: str, shard: str) -> int:
        stored = (file.metadata.metadata or {}).get(b"version", b"none").decode()
        for version in READABLE:
            if stored == str(version):
                return version
        known = " and ".join(map(str, READABLE))
        raise ShardCorrupt(
            f"{self.path(layer, shard)} has format version {stored}, this program reads {known}: give a new root"
        )

    def _kept_keys(self, layer: str, shard: str, any_state: bool) -> list[bytes]:
        judged = not any_state and "state" in self._columns(layer, shard)
        records = self._records(layer, shard, ["key", "state"] if judged else ["key"])
        return [r["key"] for r in records if r.get("state", State.KEPT) == State.KEPT]

    def _columns_by_layer(self, row: type, layers: Sequence[str], shard: str) -> dict[str, list[str]]:
        """Return the columns of `row` to read from each layer: a column comes from the last layer that has it."""
        homes: dict[str, list[str]] = {}
        columns = {layer: self._columns(layer, shard) for layer in layers}
        optional = optional_names(row)
        for name in names_of(row):
            home = next((layer for layer in reversed(layers) if name in columns[layer]), None)
            if home is None and name in optional:
                continue  # a version before this column
            if home is None:
                raise ShardCorrupt(f"shard {shard}: no column {name} in {', '.join(layers)}")
            homes.setdefault(home, ["key"])
            if name not in homes[home]:
                homes[home].append(name)
        return homes

    def _stream_pictures(
        self, homes: dict[str, list[str]], kept: list[bytes], shard: str
    ) -> Iterator[tuple[bytes, Record]]:
        pictures = next((layer for layer, names in homes.items() if "image" in names), None)
        if pictures is None:
            yield from ((key, {"key": key}) for key in kept)
            return
        left = set(kept)
        with open_parquet(self.path(pictures, shard)) as file:
            for group in range(file.num_row_groups):  # `iter_batches` would buffer the whole file
                for record in file.read_row_group(group, columns=homes[pictures]).to_pylist():
                    if record["key"] in left:
                        left.remove(record["key"])
                        yield record["key"], record
        if left:
            raise ShardCorrupt(f"{self.path(pictures, shard)} lacks {len(left)} images, {min(left).hex()} first")

    def _columns(self, layer: str, shard: str) -> list[str]:
        with open_parquet(self.path(layer, shard)) as file:
            names: list[str] = file.schema_arrow.names
            return names

    def _records(self, layer: str, shard: str, names: Sequence[str]) -> list[Record]:
        """Return all rows of a file, with these columns."""
        with open_parquet(self.path(layer, shard)) as file:
            records: list[Record] = file.read(
                columns=list(names)
            ).to_pylist()  # inside the context, which reports damaged text
            return records


def is_shard_name(name: str) -> bool:
    """Return whether a shard can have this name."""
    return _SHARD.fullmatch(name) is not None


def _name(layer: str, shard: str) -> str:
    """Return the name in a file's footer, without folders above the layer: those of a cache may be renamed."""
    return f"{layer.rpartition('/')[2]}/{shard}"


def outcome_schema_of(row: type) -> pa.Schema:
    """Return the schema of a layer of outcomes: key, state, reason, detail, and the columns of `row`, nullable."""
    key, *payload = schema_of(row)
    outcome = [pa.field("state", pa.string(), nullable=False), *(pa.field(n, pa.string()) for n in OUTCOME[1:])]
    return pa.schema([key, *outcome, *(field.with_nullable(True) for field in payload)])


@contextmanager
def open_parquet(path: UPath) -> Iterator[pq.ParquetFile]:
    """Open a Parquet file.

    Raises:
        FileNotFoundError: there is no such file.
        ShardCorrupt: a part that is read is damaged.
    """
    try:
        with open_binary(path) as file:
            yield pq.ParquetFile(file, pre_buffer=not is_local(path))  # fetches the columns of an object in one request
    except IsADirectoryError:
        raise ShardCorrupt(f"{path} is a folder: move it away and run again") from None
    except FileNotFoundError:
        if is_local(path) and Path(path.path).is_symlink():
            raise ShardCorrupt(f"{path} is a broken link: move it away, or restore its target") from None
        raise
    except (*_DAMAGE, OSError) as error:
        if isinstance(error, OSError) and (type(error) is not OSError or error.errno is not None):
            raise  # an error of the storage, not damage of the file
        damage = " ".join(str(error).split())
        raise ShardCorrupt(f"{path} is damaged ({damage}): move it away and run again") from error


def _outcome_record(row: object, names: Mapping[str, str]) -> Record:
    if isinstance(row, Refused):
        verdict = row.verdict
        payload = {} if row.row is None else record_of(row.row, names)
        outcome = {"key": row.key, "state": verdict.state, "reason": verdict.reason, "detail": verdict.detail}
        return payload | outcome
    return {"state": str(State.KEPT), **record_of(row, names)}


def _writer(file: IO[bytes], schema: pa.Schema, row: type) -> pq.ParquetWriter:
    leaves = leaf_paths(schema)
    labels = [*dictionary_paths(row), *(name for name in OUTCOME[:2] if name in schema.names)]
    return pq.ParquetWriter(
        file,
        schema,
        compression={leaf: "NONE" if leaf == "image" else "ZSTD" for leaf in leaves},
        use_dictionary=labels,
        write_statistics=[leaf for leaf in leaves if leaf != "image"],
        write_page_index=True,
    )


def _groups(records: Iterable[Record], schema: pa.Schema) -> Iterator[pa.Table]:
    iterator = iter(records)
    while group := list(islice(iterator, ROWS_PER_GROUP)):
        yield pa.Table.from_pylist(group, schema=schema)


def _check_key_order(groups: Iterable[pa.Table], name: str) -> Iterator[pa.Table]:
    last = pa.array([], pa.binary(16))
    for group in groups:
        keys = pa.concat_arrays([last, *group["key"].chunks])
        falls = pc.greater_equal(keys[:-1], keys[1:])
        if (at := pc.index(falls, True).as_py()) >= 0:
            before, key = keys[at].as_py(), keys[at + 1].as_py()
            raise ShardCorrupt(f"{name}: key {key.hex()} comes after {before.hex()}; keys must rise")
        last = keys[-1:]
        yield group


def _count_states(group: pa.Table) -> Mapping[str, int]:
    if "state" not in group.column_names:
        return {State.KEPT.value: group.num_rows}
    return Counter(group["state"].to_pylist())
