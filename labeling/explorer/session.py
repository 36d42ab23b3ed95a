"""A DuckDB session that many requests share: it only reads the dataset, in bounded memory and time."""

import threading
import weakref
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import duckdb
from duckdb import StatementType

from infra.temporary import temporary_folder
from labeling.errors import ExplorerError
from labeling.explorer.index import open_index
from labeling.sdd.query import confine, connect, open_cursor
from labeling.sdd.schema import Layer
from labeling.sdd.shards import ShardStore

_BATCH = 1000
_CURE = "narrow it down, or start the explorer with another --timeout or --memory"


@dataclass(frozen=True, slots=True)
class QueryLimits:
    """Limits of a query."""

    memory: str = "2GB"
    """Memory of all queries together, as DuckDB writes sizes."""
    timeout_s: float = 60.0
    """Longest time of a query, in seconds."""
    rows: int = 200
    """Rows of the result of free SQL."""


@dataclass(frozen=True, slots=True)
class Table:
    """Result of a query."""

    columns: tuple[str, ...]
    rows: tuple[tuple[Any, ...], ...]
    is_cut: bool
    """Whether the query has more rows."""


class Stop:
    """Stops a query that runs in another thread."""

    def __init__(self) -> None:
        self._cursor: duckdb.DuckDBPyConnection | None = None
        self.is_asked = False
        """Whether the query was asked to stop."""

    def __call__(self) -> None:
        """Ask the query to stop. DuckDB ignores this before the query has begun, so ask until it has ended."""
        self.is_asked = True
        if self._cursor is not None:
            self._cursor.interrupt()

    def watch(self, cursor: duckdb.DuckDBPyConnection) -> None:
        """Take the cursor that will run the query."""
        self._cursor = cursor


class DatasetSession:
    """Queries over a dataset, from any number of threads.

    The view `explored` has a row per input URL: see `labeling.explorer.index`.

    Args:
        root: folder of the dataset.
        cache: folder in which the index is kept for later sessions; None keeps it in memory.
        limits: limits of each query.

    Raises:
        ExplorerError: the dataset has no ledger yet.
        ShardCorrupt: a file is damaged, or not part of the dataset.
    """

    def __init__(self, root: str, cache: Path | None = None, limits: QueryLimits = QueryLimits()) -> None:
        self.store = ShardStore(root)
        self.limits = limits
        self._root = root
        if self.store.version(Layer.LEDGER) is None:
            raise ExplorerError(f"{root} has no {Layer.LEDGER}/ yet: run `subject-diffusion build` first")
        self._temporary = ExitStack()
        weakref.finalize(self, self._temporary.close)
        spill = self._temporary.enter_context(temporary_folder("subject-diffusion-explore-"))
        settings = {"memory_limit": limits.memory, "temp_directory": str(spill)}
        self._session = connect(root, unsafe=True, settings=settings)
        open_index(self._session, self.store, cache)
        confine(self._session, root)

    def rows(self, sql: str, values: Sequence[object] = ()) -> list[tuple[Any, ...]]:
        """Return all rows of a query.

        Raises:
            ExplorerError: the query is invalid, or exceeds a limit.
        """
        with self._running(sql, values) as cursor:
            return cursor.fetchall()

    def batches(self, sql: str, values: Sequence[object] = ()) -> Iterator[list[tuple[Any, ...]]]:
        """Yield the rows of a query in batches.

        Raises:
            ExplorerError: the query is invalid, or exceeds a limit.
        """
        with self._running(sql, values) as cursor:
            while rows := cursor.fetchmany(_BATCH):
                yield rows

    def table(self, sql: str, stop: Stop | None = None) -> Table:
        """Return the first rows of a SELECT that a person wrote.

        Args:
            sql: the SELECT.
            stop: with which another thread can stop it.

        Raises:
            ExplorerError: it is not one SELECT, or is invalid, or exceeds a limit, or was stopped.
        """
        refuse_other_than_select(sql)
        with self._running(sql, stop=stop) as cursor:
            columns = tuple(name for name, *_ in cursor.description or ())
            rows = cursor.fetchmany(self.limits.rows + 1)
        return Table(columns, tuple(rows[: self.limits.rows]), len(rows) > self.limits.rows)

    @contextmanager
    def _running(
        self, sql: str, values: Sequence[object] = (), stop: Stop | None = None
    ) -> Iterator[duckdb.DuckDBPyConnection]:
        cursor = open_cursor(self._session, self._root)
        if stop is not None:
            stop.watch(cursor)
        timer = threading.Timer(self.limits.timeout_s, cursor.interrupt)
        timer.daemon = True
        timer.start()
        try:
            yield cursor.execute(sql, list(values))
        except duckdb.InterruptException:
            if stop is not None and stop.is_asked:
                raise ExplorerError("the query was stopped") from None
            raise ExplorerError(f"the query took longer than {self.limits.timeout_s:g} s: {_CURE}") from None
        except duckdb.OutOfMemoryException:
            raise ExplorerError(f"the query needs more memory than {self.limits.memory}: {_CURE}") from None
        except duckdb.Error as error:
            raise ExplorerError(str(error)) from error
        finally:
            timer.cancel()
            cursor.close()


def refuse_other_than_select(sql: str) -> None:
    """Check that `sql` is one SELECT statement, which cannot change the session that others share.

    Raises:
        ExplorerError: it is not.
    """
    try:
        kinds = [statement.type for statement in duckdb.extract_statements(sql)]
    except duckdb.Error as error:
        raise ExplorerError(str(error)) from error
    if kinds != [StatementType.SELECT]:
        raise ExplorerError("give one SELECT statement; FROM, DESCRIBE and SUMMARIZE are SELECT statements too")
