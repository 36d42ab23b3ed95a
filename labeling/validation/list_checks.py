"""Checks of keys and rows of the list over all shards, by DuckDB. The name of a function is the name of the check."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import duckdb

from infra.storage import is_local
from infra.temporary import temporary_folder
from labeling.sdd.schema import Layer
from labeling.sdd.shards import ShardStore
from labeling.validation.faults import Fault

MEMORY = "1GB"
"""Memory that DuckDB takes before it writes to disk."""
_ROWS_AT_ONCE = 1000


@dataclass(frozen=True, slots=True)
class KeyTable:
    """Keys of a layer over all shards, as a view `rows` with the columns shard, row and those of the layer."""

    layer: Layer
    database: duckdb.DuckDBPyConnection

    def query(self, sql: str) -> Iterator[tuple[Any, ...]]:
        """Yield the rows of a query, a thousand at a time."""
        found = self.database.cursor().execute(sql)
        while rows := found.fetchmany(_ROWS_AT_ONCE):
            yield from rows


ListCheck = Callable[[KeyTable], Iterator[Fault]]


@contextmanager
def key_table(store: ShardStore, layer: Layer, shards: Sequence[str]) -> Iterator[KeyTable]:
    """Open a session of DuckDB over the files of a layer, which writes to disk what does not fit in `MEMORY`."""
    paths = [store.path(layer, shard) for shard in shards]
    with temporary_folder("subject-diffusion-validate-") as folder, duckdb.connect() as database:
        if not is_local(store.root):
            database.register_filesystem(store.root.fs)
        database.execute(f"SET memory_limit = '{MEMORY}'")
        database.execute(f"SET temp_directory = '{folder}'")
        files = [path.path if is_local(path) else str(path) for path in paths]
        listed = ", ".join("'" + file.replace("'", "''") + "'" for file in files)
        database.execute(
            "CREATE VIEW rows AS SELECT parse_filename(filename, true) AS shard, file_row_number AS row, "
            f"* EXCLUDE (filename, file_row_number) FROM read_parquet([{listed}], filename = true, "
            "file_row_number = true)"
        )
        yield KeyTable(layer, database)


def unique_keys(table: KeyTable) -> Iterator[Fault]:
    """Check that no two shards have the same key."""
    sql = """SELECT key, min(shard), max(shard), arg_max(row, shard) FROM rows
             GROUP BY key HAVING count(DISTINCT shard) > 1 ORDER BY key"""
    for key, first, last, row in table.query(sql):
        yield _fault(table, last, row, "key", key, f"is in {first} too")


def keys_of_urls(table: KeyTable) -> Iterator[Fault]:
    """Check that a key is the hash of the URL and its occurrence number in the list."""
    sql = """SELECT shard, row, key, occurrence FROM (
                 SELECT *, row_number() OVER (PARTITION BY url ORDER BY list_row) - 1 AS occurrence FROM rows)
             WHERE key <> unhex(left(sha256(occurrence || ' ' || url), 32)) ORDER BY shard, row"""
    for shard, row, key, occurrence in table.query(sql) if table.layer is Layer.URLS else ():
        yield _fault(table, shard, row, "key", key, f"is not the hash of occurrence {occurrence} of the URL")


def list_rows(table: KeyTable) -> Iterator[Fault]:
    """Check that the shards number the rows of the list from 0, without gaps."""
    sql = """SELECT shard, min(list_row), max(list_row), count(*), count(DISTINCT list_row) FROM rows
             GROUP BY shard ORDER BY len(shard), shard"""
    expected = 0
    for shard, first, last, rows, distinct in table.query(sql) if table.layer is Layer.URLS else ():
        if (first, last, distinct) != (expected, expected + rows - 1, rows):
            message = f"has the rows {first} to {last} of the list, not {expected} to {expected + rows - 1}"
            yield Fault(message=message, layer=table.layer, shard=shard, column="list_row")
        expected = last + 1


def _fault(table: KeyTable, shard: str, row: int, column: str, key: bytes, message: str) -> Fault:
    return Fault(message=message, layer=table.layer, shard=shard, row=row, column=column, key=key.hex())


LIST_CHECKS: tuple[ListCheck, ...] = (unique_keys, keys_of_urls, list_rows)
"""Checks of the list: of urls/, or of sdd/ where a copy of the dataset lacks urls/."""
