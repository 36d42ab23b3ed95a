"""Reads a list of URLs piece by piece: a Parquet or CSV file, or a folder of them.

The columns are those of LAION-Aesthetics; only URL is required. Errors name the file, and the row where there is one.
"""

import hashlib
import zlib
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import IO

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as pa_csv
import pyarrow.parquet as pq
from upath import UPath

from infra.storage import open_binary, refuse_unreadable, storage_path
from labeling.errors import BadInput
from labeling.sdd.arrow import schema_of
from labeling.sdd.schema import ListedUrl

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
"""Column of `urls/` for each column of LAION-Aesthetics, whose name is in lower case."""
ROWS_AT_ONCE = 1 << 16
"""Rows per table."""
CSV_BLOCK = 16 << 20
"""Bytes of a CSV file to parse at once."""
_SUFFIXES = (".parquet", ".csv", ".csv.gz")


def list_files(urls: str) -> list[UPath]:
    """Return the files of a list of the setting `labeling.urls`, in the order of their rows.

    Raises:
        BadInput: there are none.
        SettingsError: the storage cannot be read.
    """
    path = storage_path(urls)
    refuse_unreadable(path, "labeling.urls")
    if not path.exists():
        raise BadInput(f"labeling.urls={urls!r}: no such file or folder")
    paths = sorted(p for p in path.iterdir() if p.is_file()) if path.is_dir() else [path]
    files = [p for p in paths if p.name.lower().endswith(_SUFFIXES)]
    if not files:
        what = "the folder has no file whose name ends" if path.is_dir() else "the name does not end"
        raise BadInput(f"labeling.urls={urls!r}: {what} in {', '.join(_SUFFIXES)}")
    return files


def read_slices(files: Sequence[UPath], rows: int) -> Iterator[pa.Table]:
    """Yield the list in tables of `rows` rows; the last one may have fewer."""
    rest: pa.Table | None = None
    for table in read_tables(files, tuple(COLUMNS)):
        table = table if rest is None else pa.concat_tables([rest, table])
        whole = table.num_rows - table.num_rows % rows
        for start in range(0, whole, rows):
            yield table.slice(start, rows)
        rest = table.slice(whole)
    if rest is not None and rest.num_rows:
        yield rest


def read_tables(files: Sequence[UPath], wanted: Sequence[str]) -> Iterator[pa.Table]:
    """Yield the list piece by piece, with the columns and types of `urls/`; a column that a file lacks is null."""
    for file in files:
        first = 0
        for table in _raw_tables(file, wanted):
            yield pa.table({COLUMNS[name]: _column(table, name, file, first) for name in wanted})
            first += table.num_rows


def _raw_tables(file: UPath, wanted: Sequence[str]) -> Iterator[pa.Table]:
    """Yield a file piece by piece: its columns of the names `wanted`, in the file's spelling and types.

    Raises:
        BadInput: the file cannot be read, or has no URL column.
    """
    kind = "gzip" if file.name.lower().endswith(".gz") else None
    try:
        with file.fs.open(file.path, "rb", compression=kind) as stream:
            read = _read_parquet if file.name.lower().endswith(".parquet") else _read_csv
            yield from read(stream, lambda names: _choose_columns(names, wanted, file))
    except (pa.ArrowException, OSError, EOFError, zlib.error) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise BadInput(
            f"{file} is not a readable list of URLs ({reason}): repair it or remove it from the list"
        ) from error


def _read_parquet(stream: IO[bytes], choose: Callable[[Sequence[str]], list[str]]) -> Iterator[pa.Table]:
    file = pq.ParquetFile(stream)
    for batch in file.iter_batches(ROWS_AT_ONCE, columns=choose(file.schema_arrow.names)):
        yield pa.Table.from_batches([batch])


def _read_csv(stream: IO[bytes], choose: Callable[[Sequence[str]], list[str]]) -> Iterator[pa.Table]:
    """Yield a CSV file as text, so that the message about a malformed number can name its row."""
    parse = pa_csv.ParseOptions(newlines_in_values=True)
    read = pa_csv.ReadOptions(use_threads=False, block_size=CSV_BLOCK)  # with threads, errors do not name the row
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


def _choose_columns(names: Sequence[str], wanted: Sequence[str], file: UPath) -> list[str]:
    chosen = [name for name in names if name.lower() in wanted]
    lower = [name.lower() for name in chosen]
    if "url" not in lower:
        raise BadInput(f"{file} has no URL column, only {', '.join(names)}: rename the one that holds the addresses")
    if twice := [name for name in chosen if lower.count(name.lower()) > 1]:
        raise BadInput(f"{file} has the columns {' and '.join(twice)}: rename all but one of them")
    return chosen


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
        if row is None:  # each value can be cast, but not all in one way
            raise BadInput(
                f"{file}: {spelled} is not {what} throughout ({error}); write all values in one way"
            ) from error
        value = repr(_scalar(column.slice(row, 1)))[:100]
        raise BadInput(
            f"{file}, row {first + row + 1}: {spelled} is {value}, not {what}; correct it or leave it empty"
        ) from error


def _cast(column: pa.ChunkedArray, kind: pa.DataType) -> pa.ChunkedArray:
    if pa.types.is_string(kind):
        text = column.cast(kind)
        text.validate(full=True)  # no other function checks that the bytes are UTF-8
        return text
    if pa.types.is_string(column.type) or pa.types.is_large_string(column.type):
        text = pc.utf8_trim_whitespace(column)
        column = pc.if_else(pc.equal(text, ""), None, text)
        if pa.types.is_floating(kind):
            column = column.cast(kind)
        elif pc.any(pc.match_substring(column, ".")).as_py():
            column = column.cast(pa.float64())
    if pa.types.is_floating(column.type):
        column = pc.if_else(pc.is_nan(column), None, column)
        column = pc.floor(column) if pa.types.is_integer(kind) else column
    return column.cast(kind)


def _scalar(column: pa.ChunkedArray) -> object:
    """Return the only value of a column; bytes where it is not UTF-8."""
    try:
        value: object = column[0].as_py()
    except UnicodeDecodeError:
        value = column.cast(pa.binary())[0].as_py()
    return value


def _can_cast(column: pa.ChunkedArray, kind: pa.DataType) -> bool:
    try:
        _cast(column, kind)
    except pa.ArrowException:
        return False
    return True


def list_digest(files: Sequence[UPath]) -> str:
    """Return the SHA-256 of the contents of a list's files, all of which are read."""
    with ThreadPoolExecutor(min(8, len(files))) as pool:
        each = list(pool.map(_file_sha256, files))
    return hashlib.sha256("".join(each).encode()).hexdigest()


def _file_sha256(file: UPath) -> str:
    try:
        with open_binary(file) as stream:
            # Files of fsspec have `readinto`, which IO[bytes] does not declare.
            return hashlib.file_digest(stream, "sha256").hexdigest()  # type: ignore[arg-type]
    except OSError as error:
        raise BadInput(
            f"{file} cannot be read ({error.strerror or error}): repair it or remove it from the list"
        ) from error
