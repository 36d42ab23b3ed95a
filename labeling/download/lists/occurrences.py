"""Keys of the rows of a list, and the rows that repeat a URL, numbered on disk by DuckDB."""

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import IO

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq
from upath import UPath

from infra.temporary import temporary_folder
from labeling.download.lists.list_reader import COLUMNS, ROWS_AT_ONCE, read_tables

VALUES = ("width", "height", "aesthetic_score", "punsafe", "pwatermark")
"""LAION's names of the columns by which a row may be refused before its URL is fetched."""
MEMORY_LIMIT = "1GB"
"""Memory of DuckDB, which writes to disk what does not fit."""
_FIRST_KEY = "unhex(left(sha256('0 ' || coalesce(url, '')), 32))"
"""`key_of` a URL and occurrence 0, in SQL: it tells URLs apart, and is the key of most rows."""


@dataclass(frozen=True, slots=True)
class Repeat:
    """Earlier rows of the list with the URL of a row."""

    occurrence: int
    """Number of earlier rows."""
    values: str
    """Number that changes with the `VALUES` of the earlier rows."""


class Occurrences:
    """Tables on disk: about 40 bytes for each row of the list, and 80 more where its URL is repeated."""

    def __init__(self, database: duckdb.DuckDBPyConnection) -> None:
        self._database = database

    def first_keys(self, first: int, stop: int) -> pa.Array:
        """Return the keys that the rows in [first, stop) have if no earlier row has their URL, in order."""
        query = f"SELECT first_key FROM listed WHERE list_row >= {first} AND list_row < {stop} ORDER BY list_row"
        return self._database.sql(query).to_arrow_table()["first_key"].combine_chunks().cast(pa.binary(16))

    def between(self, first: int, stop: int) -> dict[int, Repeat]:
        """Return the rows in [first, stop) that repeat the URL of an earlier row, in order."""
        query = """SELECT list_row, occurrence, earlier_values FROM repeated
                   WHERE list_row >= ? AND list_row < ? AND occurrence > 0 ORDER BY list_row"""
        rows = self._database.execute(query, [first, stop]).fetchall()
        return {row: Repeat(occurrence, str(values)) for row, occurrence, values in rows}

    def write_variants(self, file: IO[bytes]) -> None:
        """Write a Parquet file with the first row of each repeated URL and set of `VALUES`.

        Its columns are url_id, list_row and those of `VALUES` (see `labeling.download.lists.repeats`).
        """
        values = ", ".join(COLUMNS[name] for name in VALUES)
        query = f"""SELECT first_key AS url_id, min(list_row) AS list_row, {values} FROM repeated
                    WHERE first_key <> (SELECT {_FIRST_KEY} FROM (SELECT '' AS url))
                    GROUP BY first_key, {values} QUALIFY count(*) OVER (PARTITION BY first_key) > 1
                    ORDER BY url_id, list_row"""
        rows = self._database.sql(query).to_arrow_reader(ROWS_AT_ONCE)
        with pq.ParquetWriter(file, rows.schema) as writer:
            for batch in rows:
                writer.write_batch(batch)


@contextlib.contextmanager
def count_occurrences(files: Sequence[UPath]) -> Iterator[Occurrences]:
    """Read all URLs and number the repeated ones."""
    with (
        temporary_folder("subject-diffusion-urls-") as folder,
        duckdb.connect(str(folder / "urls.duckdb"), config={"memory_limit": MEMORY_LIMIT}) as database,
    ):
        _load_keys(database, files)
        _number_repeats(database)
        yield Occurrences(database)


def _load_keys(database: duckdb.DuckDBPyConnection, files: Sequence[UPath]) -> None:
    """Make the table `listed`: the key and the `VALUES` of each row."""
    database.execute(
        """CREATE TABLE listed (list_row BIGINT, first_key BLOB, listed_width_px INTEGER, listed_height_px INTEGER,
                                aesthetic_score FLOAT, punsafe FLOAT, pwatermark FLOAT)"""
    )
    values = ", ".join(COLUMNS[name] for name in VALUES)
    first = 0
    for table in read_tables(files, ("url", *VALUES)):
        database.register("new_rows", table.append_column("list_row", pa.arange(first, first + table.num_rows)))
        database.execute(f"INSERT INTO listed SELECT list_row, {_FIRST_KEY}, {values} FROM new_rows")
        first += table.num_rows


def _number_repeats(database: duckdb.DuckDBPyConnection) -> None:
    """Make the table `repeated` of the rows whose URL is there more than once: few, so windows over them are cheap."""
    as_text = ", ".join(f"coalesce({COLUMNS[name]}::VARCHAR, '')" for name in VALUES)
    database.execute(
        f"""CREATE TABLE repeated AS
            SELECT *, row_number() OVER url - 1 AS occurrence,
                   sum(md5_number_lower(concat_ws('|', {as_text}))) OVER earlier AS earlier_values
            FROM listed SEMI JOIN (SELECT first_key FROM listed GROUP BY first_key HAVING count(*) > 1)
                 USING (first_key)
            WINDOW url AS (PARTITION BY first_key ORDER BY list_row),
                   earlier AS (url ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING)
            ORDER BY list_row"""
    )
