"""From a list of URLs to the planned shards of `urls/`: shard i is the list's rows [i*n, (i+1)*n).

The list is a Parquet or CSV file, or a folder of them, with the columns of LAION-Aesthetics; only URL is required. It
is read twice as a stream, and DuckDB numbers the occurrences of each URL on disk, so a list of any length fits. Where
the rows of one URL have different values, they are noted in `variants_path` (see `labeling.download.repeats`).
"""

import contextlib
import hashlib
import json
import tempfile
import zlib
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO, Any

import duckdb
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as pa_csv
import pyarrow.parquet as pq
from upath import UPath

from infra.storage import open_binary, publish, publish_bytes, refuse_unreadable, storage_path
from labeling.config import LabelingConfig, Stale
from labeling.errors import BadInput, ShardStale
from labeling.sdd.arrow import schema_of
from labeling.sdd.schema import Layer, ListedUrl
from labeling.sdd.shards import ShardStore

COLUMNS = {
    "url": "url",
    "text": "alt_text",
    "similarity": "similarity",
    "hash": "laion_hash",
    "punsafe": "punsafe",
    "pwatermark": "pwatermark",
    "aesthetic_score": "aesthetic_score",
    "width": "listed_width_px",
    "height": "listed_height_px",
}
"""LAION's name, in lower case, of each column of `urls/` that the list gives."""
VALUES = ("width", "height", "aesthetic_score", "punsafe", "pwatermark")
"""LAION's names of the columns by which a row may be refused before its URL is fetched."""
ROWS_AT_ONCE = 1 << 16
CSV_BLOCK = 16 << 20
_SUFFIXES = (".parquet", ".csv", ".csv.gz")


@dataclass(frozen=True, slots=True)
class Plan:
    """What was planned last: if the list is still that, nothing is to be done."""

    list_sha256: str
    images_per_shard: int
    shards: int


def plan_urls(config: LabelingConfig) -> list[str]:
    """The names of the shards of `labeling.urls`, whose files in `urls/` are all there afterwards.

    Without a list, the shards that were planned before. Rows added at the end of a list leave the full shards before
    them as they are.

    Raises:
        BadInput: the list cannot be used; one line says why and what to do.
        ShardStale: `urls/` was planned from other rows, and `labeling.stale` is not rebuild.
    """
    store = ShardStore(config.root)
    note, shards = _note(store), len(store.shards(Layer.URLS))
    planned = _last_plan(note)
    if config.urls is None and planned and planned.shards == shards:
        return [shard_name(number) for number in range(shards)]
    if config.urls is None:
        raise BadInput(
            f"labeling.urls is not set and {store.root} has no complete plan of a list: "
            "give the Parquet or CSV file of URLs, or a folder of them"
        )
    files = list_files(config.urls)
    sha256 = _digest(files)
    if planned != Plan(sha256, config.images_per_shard, shards) or not variants_path(store).exists():
        planned = Plan(sha256, config.images_per_shard, _write_shards(files, store, config))
        text = json.dumps(asdict(planned)).encode()
        publish_bytes(note, text)
    return [shard_name(number) for number in range(planned.shards)]


def planned_shards(store: ShardStore) -> list[str]:
    """The names of the shards of the list that was planned last; none where no plan is on record."""
    planned = _last_plan(_note(store))
    return [shard_name(number) for number in range(planned.shards if planned else 0)]


def shard_name(number: int) -> str:
    """The name of a shard: shard-00000, shard-00001, ..."""
    return f"shard-{number:05d}"


def shard_number(name: str) -> int:
    """The inverse of `shard_name`."""
    return int(name.removeprefix("shard-"))


def key_of(url: str, occurrence: int) -> bytes:
    """The 128-bit key of the row where the list has `url` for the time `occurrence`, from 0."""
    return hashlib.sha256(f"{occurrence} {url}".encode()).digest()[:16]


def list_files(urls: str) -> list[UPath]:
    """The files that `labeling.urls` names, in the order of their rows.

    Raises:
        BadInput: there are none.
        SettingsError: the storage does not answer.
    """
    path = storage_path(urls)
    refuse_unreadable(path, "labeling.urls")
    if not path.exists():
        raise BadInput(f"labeling.urls={urls!r}: no such file or folder")
    found = sorted(p for p in path.iterdir() if p.is_file()) if path.is_dir() else [path]
    files = [p for p in found if p.name.lower().endswith(_SUFFIXES)]
    if not files:
        what = "the folder has no file whose name ends" if path.is_dir() else "the name does not end"
        raise BadInput(f"labeling.urls={urls!r}: {what} in {', '.join(_SUFFIXES)}")
    return files


def variants_path(store: ShardStore) -> UPath:
    """The file of the URLs whose rows differ in `VALUES`: of each, the first row with each set of values.

    Its columns are url_id, list_row and those of `VALUES`.
    """
    return store.root / "work" / Layer.URLS / "variants.parquet"


def _write_shards(files: Sequence[UPath], store: ShardStore, config: LabelingConfig) -> int:
    """Write the files of `urls/` that are not there; returns how many shards the list has."""
    with _occurrences(files) as occurrences:
        number = -1
        for number, table in enumerate(_slices(files, config.images_per_shard)):
            _write_shard(number, table, occurrences, store, config)
        if number < 0:
            raise BadInput(f"labeling.urls={config.urls!r} has no rows: a list needs at least one URL")
        publish(variants_path(store), occurrences.write_variants, replace=True)
    planned = {shard_name(n) for n in range(number + 1)}
    if extra := sorted(set(store.shards(Layer.URLS)) - planned):
        raise ShardStale(
            f"{store.path(Layer.URLS, extra[0])} holds rows that labeling.urls={config.urls!r} no longer has: give "
            "a new root, or the list that the dataset was begun with"
        )
    return number + 1


def _write_shard(
    number: int, table: pa.Table, occurrences: "Occurrences", store: ShardStore, config: LabelingConfig
) -> None:
    first, shard = number * config.images_per_shard, shard_name(number)
    repeated = occurrences.between(first, first + table.num_rows)
    rows = []
    for list_row, record in enumerate(table.to_pylist(), first):
        record["url"] = record["url"] or ""
        record |= {"list_row": list_row, "key": key_of(record["url"], repeated.get(list_row, 0))}
        rows.append(ListedUrl(**record))
    rows.sort(key=lambda row: row.key)
    stamp = hashlib.sha256(repr(rows).encode()).hexdigest()[:12]
    found = store.stamp(Layer.URLS, shard)
    if found is None or (found.stamp != stamp and config.stale is Stale.REBUILD):
        store.write(Layer.URLS, shard, rows, ListedUrl, stamp, replace=True)
    elif found.stamp != stamp:
        raise ShardStale(
            f"{store.path(Layer.URLS, shard)} was planned from other rows than {config.urls!r} has now from {first} to "
            f"{first + table.num_rows - 1}: give a new root, or let it be made again with --set labeling.stale=rebuild"
        )


class Occurrences:
    """How often the URL of each row stands in the rows before it: a table on disk, 44 bytes a row of the list."""

    def __init__(self, database: duckdb.DuckDBPyConnection) -> None:
        self._database = database

    def between(self, first: int, stop: int) -> dict[int, int]:
        """The occurrence numbers of the rows in [first, stop), without those that are 0."""
        query = "SELECT list_row, occurrence FROM repeated WHERE list_row >= ? AND list_row < ? AND occurrence > 0"
        return dict(self._database.execute(query, [first, stop]).fetchall())

    def write_variants(self, file: IO[bytes]) -> None:
        """Write the content of `variants_path`."""
        values = ", ".join(COLUMNS[name] for name in VALUES)
        query = f"""SELECT digest AS url_id, min(list_row) AS list_row, {values} FROM repeated
                    WHERE digest <> unhex(left(sha256(''), 32))
                    GROUP BY digest, {values} QUALIFY count(*) OVER (PARTITION BY digest) > 1
                    ORDER BY url_id, list_row"""
        rows = self._database.sql(query).to_arrow_reader(ROWS_AT_ONCE)
        with pq.ParquetWriter(file, rows.schema) as writer:
            for batch in rows:
                writer.write_batch(batch)


@contextlib.contextmanager
def _occurrences(files: Sequence[UPath]) -> Iterator[Occurrences]:
    """Read all URLs and number the repeated ones; DuckDB spills what does not fit in memory."""
    values = ", ".join(COLUMNS[name] for name in VALUES)
    with (
        tempfile.TemporaryDirectory(prefix="subject-diffusion-urls-") as folder,
        duckdb.connect(str(Path(folder) / "urls.duckdb")) as database,
    ):
        database.execute(
            """CREATE TABLE listed (list_row BIGINT, digest BLOB, listed_width_px INTEGER, listed_height_px INTEGER,
                                    aesthetic_score FLOAT, punsafe FLOAT, pwatermark FLOAT)"""
        )
        first = 0
        for table in _tables(files, ("url", *VALUES)):
            rows = pa.array(range(first, first + table.num_rows), pa.int64())
            database.register("arrived", table.append_column("list_row", rows))
            database.execute(
                f"""INSERT INTO listed
                    SELECT list_row, unhex(left(sha256(coalesce(url, '')), 32)), {values} FROM arrived"""
            )
            first += table.num_rows
        database.execute(
            """CREATE TABLE repeated AS
               SELECT *, row_number() OVER (PARTITION BY digest ORDER BY list_row) - 1 AS occurrence FROM listed
               QUALIFY count(*) OVER (PARTITION BY digest) > 1 ORDER BY list_row"""
        )
        yield Occurrences(database)


def _slices(files: Sequence[UPath], rows: int) -> Iterator[pa.Table]:
    """The list, `rows` rows at a time, the last ones fewer."""
    rest: pa.Table | None = None
    for table in _tables(files, tuple(COLUMNS)):
        table = table if rest is None else pa.concat_tables([rest, table])
        whole = table.num_rows - table.num_rows % rows
        for start in range(0, whole, rows):
            yield table.slice(start, rows)
        rest = table.slice(whole)
    if rest is not None and rest.num_rows:
        yield rest


def _tables(files: Sequence[UPath], wanted: Sequence[str]) -> Iterator[pa.Table]:
    """The list piece by piece: columns and types of `urls/`, null where a file lacks one."""
    for file in files:
        first = 0
        for table in _raw_tables(file, wanted):
            yield pa.table({COLUMNS[name]: _column(table, name, file, first) for name in wanted})
            first += table.num_rows


def _raw_tables(file: UPath, wanted: Sequence[str]) -> Iterator[pa.Table]:
    """The file piece by piece: its columns of the names `wanted`, as it spells and types them.

    Raises:
        BadInput: it cannot be read, or has no URL column.
    """
    kind = "gzip" if file.name.lower().endswith(".gz") else None
    try:
        with file.fs.open(file.path, "rb", compression=kind) as stream:
            read = _parquet if file.name.lower().endswith(".parquet") else _csv
            yield from read(stream, lambda names: _matching(names, wanted, file))
    except (pa.ArrowException, OSError, EOFError, zlib.error) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise BadInput(
            f"{file} is no readable list of URLs ({reason}): repair it or take it out of the list"
        ) from error


def _parquet(stream: IO[bytes], choose: Callable[[Sequence[str]], list[str]]) -> Iterator[pa.Table]:
    file = pq.ParquetFile(stream)
    for batch in file.iter_batches(ROWS_AT_ONCE, columns=choose(file.schema_arrow.names)):
        yield pa.Table.from_batches([batch])


def _csv(stream: IO[bytes], choose: Callable[[Sequence[str]], list[str]]) -> Iterator[pa.Table]:
    """As text, so that a value that is no number can be named with its row."""
    parse = pa_csv.ParseOptions(newlines_in_values=True)
    read = pa_csv.ReadOptions(use_threads=False, block_size=CSV_BLOCK)  # threads would not tell the row of an error
    chosen = choose(pa_csv.open_csv(stream, read_options=read, parse_options=parse).schema.names)
    convert = pa_csv.ConvertOptions(
        include_columns=chosen,
        column_types=dict.fromkeys(chosen, pa.string()),
        strings_can_be_null=True,
        null_values=[""],
    )
    stream.seek(0)
    for batch in pa_csv.open_csv(stream, read_options=read, parse_options=parse, convert_options=convert):
        yield pa.Table.from_batches([batch])


def _matching(names: Sequence[str], wanted: Sequence[str], file: UPath) -> list[str]:
    found = [name for name in names if name.lower() in wanted]
    lower = [name.lower() for name in found]
    if "url" not in lower:
        raise BadInput(f"{file} has no URL column, only {', '.join(names)}: rename the one that holds the addresses")
    if twice := [name for name in found if lower.count(name.lower()) > 1]:
        raise BadInput(f"{file} has the columns {' and '.join(twice)}: rename all but one of them")
    return found


def _column(table: pa.Table, name: str, file: UPath, first: int) -> pa.ChunkedArray:
    kind = schema_of(ListedUrl).field(COLUMNS[name]).type
    spelled = next((own for own in table.column_names if own.lower() == name), None)
    if spelled is None:
        return pa.chunked_array([pa.nulls(table.num_rows, kind)])
    column = table[spelled]
    try:
        return _cast(column, kind)
    except pa.ArrowException as error:
        what = "text" if pa.types.is_string(kind) else f"a number ({kind})"
        row = next((row for row in range(len(column)) if not _can_cast(column.slice(row, 1), kind)), None)
        if row is None:  # each for itself, but not all in one way
            raise BadInput(f"{file}: {spelled} is not {what} throughout ({error}); write it alike") from error
        value = repr(_value(column.slice(row, 1)))[:100]
        raise BadInput(
            f"{file}, row {first + row + 1}: {spelled} is {value}, not {what}; correct it or leave it empty"
        ) from error


def _cast(column: pa.ChunkedArray, kind: pa.DataType) -> pa.ChunkedArray:
    if pa.types.is_string(kind):
        text = column.cast(kind)
        text.validate(full=True)  # bytes that are no UTF-8 are looked for by nobody else
        return text
    if pa.types.is_string(column.type) or pa.types.is_large_string(column.type):
        text = pc.utf8_trim_whitespace(column)
        column = pc.if_else(pc.equal(text, ""), None, text)
        if pa.types.is_integer(kind) and pc.any(pc.match_substring(column, ".")).as_py():
            column = column.cast(pa.float64())
    if pa.types.is_floating(column.type):
        column = pc.if_else(pc.is_nan(column), None, column)
        column = pc.floor(column) if pa.types.is_integer(kind) else column
    return column.cast(kind)


def _value(one: pa.ChunkedArray) -> Any:
    try:
        return one[0].as_py()
    except UnicodeDecodeError:
        return one.cast(pa.binary())[0].as_py()


def _can_cast(column: pa.ChunkedArray, kind: pa.DataType) -> bool:
    try:
        _cast(column, kind)
    except pa.ArrowException:
        return False
    return True


def _digest(files: Sequence[UPath]) -> str:
    """SHA-256 of the list's contents; read in full, so that no change is missed."""
    with ThreadPoolExecutor(min(8, len(files))) as pool:
        each = list(pool.map(_file_sha256, files))
    return hashlib.sha256("".join(each).encode()).hexdigest()


def _file_sha256(file: UPath) -> str:
    try:
        with open_binary(file) as stream:
            return hashlib.file_digest(stream, "sha256").hexdigest()  # type: ignore[arg-type]
    except OSError as error:
        raise BadInput(
            f"{file} cannot be read ({error.strerror or error}): repair it or take it out of the list"
        ) from error


def _note(store: ShardStore) -> UPath:
    return store.root / "work" / Layer.URLS / "plan.json"


def _last_plan(note: UPath) -> Plan | None:
    try:
        return Plan(**json.loads(note.read_text()))
    except (FileNotFoundError, ValueError, TypeError):  # where it is damaged, the list is read again
        return None
