"""Occurrences of the URLs of a list: the rows that repeat a URL, numbered on disk by DuckDB."""

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


@dataclass(frozen=True, slots=True)
class Repeat:
    """Earlier rows of the list with the URL of a row."""

    occurrence: int
    """Number of earlier rows."""
    values: str
    """Number that changes with the `VALUES` of the earlier rows."""


class Occurrences:
    """Table on disk with the rows whose URL the list repeats, about 60 bytes each."""

    def __init__(self, database: duckdb.DuckDBPyConnection) -> None:
        self._database = database

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
        query = f"""SELECT digest AS url_id, min(list_row) AS list_row, {values} FROM repeated
                    WHERE digest <> unhex(left(sha256(''), 32))
                    GROUP BY digest, {values} QUALIFY count(*) OVER (PARTITION BY digest) > 1
                    ORDER BY url_id, list_row"""
        rows = self._database.sql(query).to_arrow_reader(ROWS_AT_ONCE)
        with pq.ParquetWriter(file, rows.schema) as writer:
            for batch in rows:
                writer.write_batch(batch)


@contextlib.contextmanager
def count_occurrences(files: Sequence[UPath]) -> Iterator[Occurrences]:
    """Read all URLs and number the repeated ones; DuckDB writes to disk what does not fit in memory."""
    values = ", ".join(COLUMNS[name] for name in VALUES)
    with (
        temporary_folder("subject-diffusion-urls-") as folder,
        duckdb.connect(str(folder / "urls.duckdb")) as database,
    ):
        database.execute(
            """CREATE TABLE listed (list_row BIGINT, digest BLOB, listed_width_px INTEGER, listed_height_px INTEGER,
                                    aesthetic_score FLOAT, punsafe FLOAT, pwatermark FLOAT)"""
        )
        first = 0
        for table in read_tables(files, ("url", *VALUES)):
            rows = pa.array(range(first, first + table.num_rows), pa.int64())
            database.register("new_rows", table.append_column("list_row", rows))
            database.execute(
                f"""INSERT INTO listed
                    SELECT list_row, unhex(left(sha256(coalesce(url, '')), 32)), {values} FROM new_rows"""
            )
            first += table.num_rows
        as_text = ", ".join(f"coalesce({COLUMNS[name]}::VARCHAR, '')" for name in VALUES)
        database.execute(
            f"""CREATE TABLE repeated AS
                SELECT *, row_number() OVER url - 1 AS occurrence,
                       sum(md5_number_lower(concat_ws('|', {as_text}))) OVER earlier AS earlier_values
                FROM listed
                WINDOW url AS (PARTITION BY digest ORDER BY list_row),
                       earlier AS (url ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING)
                QUALIFY count(*) OVER (PARTITION BY digest) > 1 ORDER BY list_row"""
        )
        yield Occurrences(database)
