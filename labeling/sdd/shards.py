"""Shards: one Parquet file per layer and shard, written whole or not at all, stamped with what made it.

    ROOT/urls/        what was asked for            one row per input URL
    ROOT/images/      what came                     one row per input URL
    ROOT/captions/    nouns/ detections/ entities/  one row per image that the layer before kept
    ROOT/sdd/         the dataset                   kept images only
    ROOT/ledger/      what became of each URL       one row per input URL

A layer keeps the format version of the files that are in it, so that other programs read it as one table; a layer
without files begins with today's.

Rows stand in the order of their keys. The layers from images/ to entities/ hold *outcomes*: a row's payload
columns are null where its `state` is not `kept`, unless the stage says something of a refused image too, as nouns/
does with the nouns that it removed.
"""

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import IO, Any, NamedTuple, TypeVar

import pyarrow as pa
import pyarrow.parquet as pq
from upath import UPath

from infra.storage import is_local, open_binary, publish, storage_path
from labeling.errors import ShardCorrupt, ShardStale
from labeling.sdd.arrow import (
    dictionary_paths,
    former_names,
    leaf_paths,
    names_of,
    optional_names,
    record_of,
    row_of,
    schema_of,
)
from labeling.sdd.footer import Stamp, stamp_in
from labeling.sdd.schema import READABLE, VERSION, Layer, State, Verdict
from labeling.sdd.seal import seal

R = TypeVar("R")
ROWS_PER_GROUP = 64
"""About 19 MB of JPEG: what one random read brings in."""
OUTCOME = ("state", "reason", "detail")
PARENTS: dict[str, Layer] = {
    Layer.IMAGES: Layer.URLS,
    Layer.CAPTIONS: Layer.IMAGES,
    Layer.NOUNS: Layer.CAPTIONS,
    Layer.DETECTIONS: Layer.NOUNS,
    Layer.ENTITIES: Layer.DETECTIONS,
    Layer.SDD: Layer.ENTITIES,
    Layer.LEDGER: Layer.ENTITIES,
}
"""The layer that each layer is made from."""
FIRST = "shard-00000"
_DAMAGE = (pa.ArrowInvalid, pa.ArrowNotImplementedError, pa.ArrowKeyError, pa.ArrowTypeError, UnicodeDecodeError)
"""What pyarrow raises of a damaged file, beside an OSError without a number."""
_SHARD = re.compile(r"shard-\d{5,}")


class Format(NamedTuple):
    """How the files of a layer are written."""

    schema: pa.Schema
    version: int
    names: Mapping[str, str]
    """What its fields are called where that differs from today's names."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Refused:
    """An image that goes no further."""

    key: bytes
    verdict: Verdict
    row: Any = None
    """Its payload, where the stage has one all the same."""


class ShardStore:
    """Reads and writes the files of a dataset folder."""

    def __init__(self, root: str) -> None:
        self.root = storage_path(root)

    def path(self, layer: str, shard: str) -> UPath:
        """Where the file is, or will be."""
        return self.root / layer / f"{shard}.parquet"

    def shards(self, layer: str) -> list[str]:
        """The shards that the layer has a file of, in order; files of other names are left out."""
        return [name for name in self.names(layer) if is_shard_name(name)]

    def names(self, layer: str) -> list[str]:
        """The names of all Parquet files of the layer without their ending, in order."""
        folder = self.root / layer
        return sorted(p.stem for p in folder.glob("*.parquet")) if folder.exists() else []

    def dataset(self) -> str | None:
        """What the files of this dataset have in common: the stamp of its first list's first shard, which later files
        inherit. None where no file has it.
        """
        for layer in Layer:
            with suppress(FileNotFoundError, ShardCorrupt):
                with self.open_file(layer, FIRST) as file:
                    found = self.stamp_of(file, layer, FIRST)
                if inherited := found.dataset or (found.stamp if layer == Layer.URLS else None):
                    return inherited
        return None

    def stamp(self, layer: str, shard: str) -> Stamp | None:
        """The file's stamp and counts, or None where there is no file.

        Raises:
            ShardCorrupt: the file is not one of this program, or of a version of the format that it does not know.
        """
        try:
            with self.open_file(layer, shard) as file:
                return self.stamp_of(file, layer, shard)
        except FileNotFoundError:
            return None

    def stamp_of(self, file: pq.ParquetFile, layer: str, shard: str) -> Stamp:
        """As `stamp`, of the file that `open_file` gave."""
        self._version_of(file, layer, shard)
        path = self.path(layer, shard)
        try:
            stamp = stamp_in(file.metadata.metadata)
        except ValueError as error:
            raise ShardCorrupt(f"{path} is damaged ({error}): move it away and run again") from error
        if stamp.name not in (None, _name(layer, shard)):
            raise ShardCorrupt(
                f"{path} was written as {stamp.name}.parquet, so it was renamed or swapped: give it back its name, or "
                "move it away and run again"
            )
        return stamp

    def version(self, layer: str) -> int | None:
        """The format version of the layer's files; None where it has none."""
        return next((version for version, _ in self._formats(layer)), None)

    def open_file(self, layer: str, shard: str) -> AbstractContextManager[pq.ParquetFile]:
        """The file itself, for those who read single row groups of it.

        Raises:
            FileNotFoundError: there is none.
            ShardCorrupt: what is read of it is damaged.
        """
        return _open_parquet(self.path(layer, shard))

    def has(self, layer: str, shard: str, stamp: str) -> bool:
        """Whether the file is there.

        Raises:
            ShardStale: it is, with another stamp.
            ShardCorrupt: it is, and of another dataset.
        """
        found = self.stamp(layer, shard)
        if found is None:
            return False
        if found.stamp != stamp:
            if found.dataset not in (None, dataset := self.dataset()):
                raise ShardCorrupt(
                    f"{self.path(layer, shard)} is of the dataset {found.dataset}, this one is {dataset}: move it away"
                )
            raise ShardStale(
                f"{self.path(layer, shard)} is stamped {found.stamp}, this run's is {stamp}: it was made under other "
                "settings. Give a new root, or let it be made again with --set labeling.stale=rebuild"
            )
        return True

    def read(self, row: type[R], layers: Sequence[str], shard: str) -> Iterator[R]:
        """The images that the last of `layers` kept, with the columns of `row` from whichever layer has them.

        Where `row` has the state itself, as the ledger's does, these are all images. Only the columns asked for are
        read, and pictures only a row group at a time.

        Raises:
            ShardCorrupt: the layers together lack a column of `row`, or a layer lacks an image.
        """
        wanted = names_of(row)
        kept = self._kept(layers[-1], shard, any_state="state" in wanted)
        homes = self._homes(row, layers, shard)
        tables = {
            layer: {record["key"]: record for record in self._records(layer, shard, names)}
            for layer, names in homes.items()
            if "image" not in names
        }
        for key, record in self._streamed(homes, kept, shard):
            for layer, by_key in tables.items():
                if key not in by_key:
                    raise ShardCorrupt(f"{self.path(layer, shard)} lacks the image {key.hex()} of {layers[-1]}/")
                record |= by_key[key]
            yield row_of(row, record)

    def keys(self, layer: str, shard: str) -> list[bytes]:
        """The keys of all rows of a file."""
        return [record["key"] for record in self._records(layer, shard, ["key"])]

    def verdicts(self, layer: str, shard: str) -> dict[bytes, Verdict]:
        """Why the layer refused what it refused."""
        records = self._records(layer, shard, ["key", *OUTCOME])
        return {
            r["key"]: Verdict(state=r["state"], reason=r["reason"], detail=r["detail"])
            for r in records
            if r["state"] != State.KEPT
        }

    def write(
        self, layer: str, shard: str, rows: Iterable[Any], row: type, stamp: str, *, replace: bool = False
    ) -> dict[str, int]:
        """Write `rows`, instances of `row`, in the order of their keys; returns the counts by state.

        Raises:
            FileExistsError: the file is there and `replace` is false.
        """
        form = self._format(layer, shard, row, schema_of(row))
        records = (record_of(r, form.names) for r in rows)
        return self._write(layer, shard, records, form, row, stamp, replace)

    def write_outcomes(
        self, layer: str, shard: str, rows: Iterable[Any], row: type, stamp: str, *, replace: bool = False
    ) -> dict[str, int]:
        """Write `rows`, each an instance of `row` or `Refused`, in the order of their keys; counts by state.

        Raises:
            FileExistsError: the file is there and `replace` is false.
        """
        form = self._format(layer, shard, row, outcome_schema_of(row))
        records = (_outcome_record(r, form.names) for r in rows)
        return self._write(layer, shard, records, form, row, stamp, replace)

    def _write(
        self,
        layer: str,
        shard: str,
        records: Iterable[dict[str, Any]],
        form: Format,
        row: type,
        stamp: str,
        replace: bool,
    ) -> dict[str, int]:
        counts: dict[str, int] = {}
        parent = self.stamp(PARENTS[layer], shard) if layer in PARENTS else None
        dataset = self.dataset() or (stamp if (layer, shard) == (Layer.URLS, FIRST) else None)

        def write(file: IO[bytes]) -> None:
            with _writer(file, form.schema, row) as writer:
                for group in _groups(_in_key_order(records, f"{layer}/{shard}")):
                    writer.write_table(pa.Table.from_pylist(group, schema=form.schema))
                    for record in group:
                        state = str(record.get("state", State.KEPT))
                        counts[state] = counts.get(state, 0) + 1
                about = Stamp(stamp, counts, parent and parent.stamp, dataset, _name(layer, shard)).metadata()
                writer.add_key_value_metadata(about | {"version": str(form.version)})
            seal(file)

        publish(self.path(layer, shard), write, replace=replace)
        return counts

    def _format(self, layer: str, shard: str, row: type, schema: pa.Schema) -> Format:
        """The format of the layer's other files, or today's where there are none."""
        version, found = next(self._formats(layer, without=shard), (VERSION, schema))
        if version == VERSION:
            return Format(schema, VERSION, {})
        return Format(found.remove_metadata(), version, former_names(row))

    def _formats(self, layer: str, without: str = "") -> Iterator[tuple[int, pa.Schema]]:
        """Version and schema of each file of the layer but one; damaged files are refused where they are read."""
        for shard in self.shards(layer):
            with suppress(ShardCorrupt, FileNotFoundError):
                if shard != without:
                    with self.open_file(layer, shard) as file:
                        yield self._version_of(file, layer, shard), file.schema_arrow

    def _version_of(self, file: pq.ParquetFile, layer: str, shard: str) -> int:
        found = (file.metadata.metadata or {}).get(b"version", b"none").decode()
        for version in READABLE:
            if found == str(version):
                return version
        known = " and ".join(map(str, READABLE))
        raise ShardCorrupt(
            f"{self.path(layer, shard)} has format version {found}, this program reads {known}: give a new root"
        )

    def _kept(self, layer: str, shard: str, any_state: bool) -> list[bytes]:
        judged = not any_state and "state" in self._columns(layer, shard)
        records = self._records(layer, shard, ["key", "state"] if judged else ["key"])
        return [r["key"] for r in records if r.get("state", State.KEPT) == State.KEPT]

    def _homes(self, row: type, layers: Sequence[str], shard: str) -> dict[str, list[str]]:
        """The columns of `row` to read from each layer: the last that has it is a column's home."""
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

    def _streamed(
        self, homes: dict[str, list[str]], kept: list[bytes], shard: str
    ) -> Iterator[tuple[bytes, dict[str, Any]]]:
        pictures = next((layer for layer, names in homes.items() if "image" in names), None)
        if pictures is None:
            yield from ((key, {"key": key}) for key in kept)
            return
        left = set(kept)
        with _open_parquet(self.path(pictures, shard)) as file:
            for group in range(file.num_row_groups):  # `iter_batches` would buffer the whole file
                for record in file.read_row_group(group, columns=homes[pictures]).to_pylist():
                    if record["key"] in left:
                        left.remove(record["key"])
                        yield record["key"], record
        if left:
            raise ShardCorrupt(f"{self.path(pictures, shard)} lacks {len(left)} images, {min(left).hex()} first")

    def _columns(self, layer: str, shard: str) -> list[str]:
        with _open_parquet(self.path(layer, shard)) as file:
            names: list[str] = file.schema_arrow.names
            return names

    def _records(self, layer: str, shard: str, names: Sequence[str]) -> list[dict[str, Any]]:
        """All rows of a file, with these columns."""
        with _open_parquet(self.path(layer, shard)) as file:
            records: list[dict[str, Any]] = file.read(columns=list(names)).to_pylist()  # here, as text may be damaged
            return records


def is_shard_name(name: str) -> bool:
    """Whether a shard can have this name."""
    return _SHARD.fullmatch(name) is not None


def _name(layer: str, shard: str) -> str:
    """What a file calls itself; folders above a layer of a cache may be renamed."""
    return f"{layer.rpartition('/')[2]}/{shard}"


def outcome_schema_of(row: type) -> pa.Schema:
    """The schema of a layer of outcomes: key, state, reason, detail, and the columns of `row`, nullable."""
    key, *payload = schema_of(row)
    outcome = [pa.field("state", pa.string(), nullable=False), *(pa.field(n, pa.string()) for n in OUTCOME[1:])]
    return pa.schema([key, *outcome, *(field.with_nullable(True) for field in payload)])


@contextmanager
def _open_parquet(path: UPath) -> Iterator[pq.ParquetFile]:
    """The Parquet file.

    Raises:
        FileNotFoundError: there is none.
        ShardCorrupt: what is read of it is damaged.
    """
    try:
        with open_binary(path) as file:
            yield pq.ParquetFile(file, pre_buffer=not is_local(path))  # of an object, columns in one request
    except IsADirectoryError:
        raise ShardCorrupt(f"{path} is a folder: move it away and run again") from None
    except FileNotFoundError:
        if is_local(path) and Path(path.path).is_symlink():
            raise ShardCorrupt(f"{path} is a link to nothing: move it away, or put back what it led to") from None
        raise
    except (*_DAMAGE, OSError) as error:
        if isinstance(error, OSError) and (type(error) is not OSError or error.errno is not None):
            raise  # the storage's, not the format's
        damage = " ".join(str(error).split())
        raise ShardCorrupt(f"{path} is damaged ({damage}): move it away and run again") from error


def _outcome_record(row: Any, names: Mapping[str, str]) -> dict[str, Any]:
    if isinstance(row, Refused):
        verdict = row.verdict
        payload = {} if row.row is None else record_of(row.row, names)
        outcome = {"key": row.key, "state": verdict.state, "reason": verdict.reason, "detail": verdict.detail}
        return payload | outcome
    record: dict[str, Any] = record_of(row, names)
    return {"state": str(State.KEPT), **record}


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


def _groups(records: Iterable[dict[str, Any]]) -> Iterator[list[dict[str, Any]]]:
    iterator = iter(records)
    while group := list(islice(iterator, ROWS_PER_GROUP)):
        yield group


def _in_key_order(records: Iterable[dict[str, Any]], name: str) -> Iterator[dict[str, Any]]:
    last = b""
    for record in records:
        if record["key"] <= last:
            raise ShardCorrupt(f"{name}: key {record['key'].hex()} comes after {last.hex()}; keys must rise")
        last = record["key"]
        yield record
