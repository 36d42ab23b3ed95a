"""Run SQL for `subject-diffusion inspect`: from an argument, from standard input, or typed at a prompt."""

import atexit
import contextlib
import csv
import io
import os
import shutil
import sys
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

import duckdb
import typer

from labeling.errors import LabelingError
from labeling.sdd.query import LayerChecks, refuse_writes

ROWS_OF_A_TABLE = 40
_BATCH = 1000
_LINES_OF_HISTORY = 1000
_UNLIMITED = 1_000_000
_SUBQUERIES = {duckdb.StatementType.SELECT, duckdb.StatementType.MULTI}
"""Statements that can stand in parentheses, as PRAGMA and EXPLAIN cannot; MULTI is a PIVOT."""
_SHORT_BYTES = 32
"""Binary values up to this length are printed in a table: keys and hashes, but no images."""


class Format(StrEnum):
    """Format of printed results."""

    TABLE = "table"
    CSV = "csv"
    """A header and one line per row."""
    JSON = "json"
    """An array of objects, one line each."""


@dataclass(frozen=True, slots=True)
class Output:
    """Format and limits of printed results. Binary values are printed as by `hex(key)`."""

    format: Format = Format.TABLE
    rows: int | None = None
    """Most rows printed. 0 prints all; None prints 40 of a table and all of CSV and JSON."""
    columns: int | None = None
    """Most columns printed. 0 prints all; None prints as many of a table as fit the terminal, and all elsewhere."""

    @property
    def limit(self) -> int:
        """Most rows printed; 0 for all."""
        if self.rows is None:
            return ROWS_OF_A_TABLE if self.format is Format.TABLE else 0
        return self.rows

    @property
    def width(self) -> int:
        """Characters in a line of a table."""
        fits = self.columns is None and sys.stdout.isatty()
        return shutil.get_terminal_size().columns if fits else _UNLIMITED


def run(
    session: duckdb.DuckDBPyConnection,
    sql: str,
    output: Output = Output(),
    *,
    unsafe: bool = False,
    checks: LayerChecks | None = None,
) -> bool:
    """Run the statements of `sql` in turn, print their results, and return whether all succeeded.

    If one of them may write files and `unsafe` is false, none runs. If it names a layer that `checks` refuses, it does
    not run, nor do those after it.
    """
    try:
        if not unsafe:
            refuse_writes(sql)
        for statement in duckdb.extract_statements(sql):
            _run_until_interrupted(session, statement, output, checks)
    except (duckdb.Error, LabelingError) as error:
        typer.secho(f"error: {error}", fg="red", err=True)
        return False
    return True


def prompt(
    session: duckdb.DuckDBPyConnection,
    output: Output = Output(),
    *,
    unsafe: bool = False,
    checks: LayerChecks | None = None,
) -> None:
    """Read and run statements line by line until the input ends. The arrow keys recall earlier lines."""
    _load_history()
    views = session.execute("SELECT view_name FROM duckdb_views() WHERE NOT internal ORDER BY 1").fetchall()
    typer.echo("Views: " + ", ".join(name for (name,) in views) + ". End with Ctrl-D.")
    while True:
        try:
            run(session, input("sdd> "), output, unsafe=unsafe, checks=checks)
        except KeyboardInterrupt:
            typer.echo("interrupted")
        except EOFError:
            typer.echo()
            return


def _run_until_interrupted(
    session: duckdb.DuckDBPyConnection, statement: duckdb.Statement, output: Output, checks: LayerChecks | None
) -> None:
    """Run a statement in a second thread, because the main thread receives no Ctrl-C while it is inside DuckDB."""
    with ThreadPoolExecutor(1) as thread:
        try:
            if checks:
                thread.submit(checks.refuse_foreign_files, statement.query).result()
            thread.submit(_run, session, statement, output).result()
        except KeyboardInterrupt:
            session.interrupt()
            raise


def _run(session: duckdb.DuckDBPyConnection, statement: duckdb.Statement, output: Output) -> None:
    query, kind = _without_semicolon(statement.query), statement.type
    if kind not in _SUBQUERIES and statement.expected_result_type != [duckdb.ExpectedResultType.QUERY_RESULT]:
        session.execute(statement)
        return
    relation = session.sql(f"FROM ({query}\n)" if kind == duckdb.StatementType.MULTI else query)
    if kind == duckdb.StatementType.EXPLAIN and output.format is Format.TABLE:
        typer.echo("\n".join(plan.rstrip() for _, plan in relation.fetchall()))
        return
    if kind not in _SUBQUERIES:
        session, query = duckdb.connect().register("result", relation.to_arrow_table()), "FROM result"
        relation = session.sql(query)
    columns = list(zip(relation.columns, map(str, relation.types), strict=True))
    _PRINTERS[output.format](
        session, _select_columns(query, columns[: output.columns or None], len(columns), output), output
    )


def _without_semicolon(query: str) -> str:
    """Return the statement without its semicolon, so that it can be a subquery."""
    encoded = query.encode()
    operators = (at for at, kind in duckdb.tokenize(query) if kind == duckdb.token_type.operator)
    return encoded[: next((at for at in operators if encoded[at : at + 1] == b";"), None)].decode()


def _select_columns(query: str, columns: Sequence[tuple[str, str]], width: int, output: Output) -> str:
    """Return SQL that selects and formats `columns` (name and type), the first of the `width` columns of `query`."""
    items = ", ".join(
        f"{_formatted(f'c{i}', kind, output)} AS {_quoted(name)}" for i, (name, kind) in enumerate(columns)
    )
    return f"SELECT {items} FROM ({query}\n) AS result({', '.join(f'c{i}' for i in range(width))})"


def _formatted(value: str, kind: str, output: Output) -> str:
    if kind == "BLOB" and output.format is Format.TABLE:
        size = f"octet_length({value})"
        return f"CASE WHEN {size} <= {_SHORT_BYTES} THEN hex({value}) ELSE format('<{{:,}} bytes>', {size}) END"
    if kind == "BLOB":
        return f"hex({value})"
    return f"{value}::VARCHAR" if output.format is Format.CSV else value


def _print_table(session: duckdb.DuckDBPyConnection, query: str, output: Output) -> None:
    table = session.sql(f"{query} LIMIT {output.limit + 1}" if output.limit else query).to_arrow_table()
    head = table.slice(0, output.limit) if output.limit else table
    with contextlib.redirect_stdout(io.StringIO()) as printed:
        duckdb.from_arrow(head).show(max_width=output.width, max_rows=len(head) or None)
    typer.echo(printed.getvalue().rstrip())
    if len(head) < len(table):
        typer.echo(f"the first {len(head)} rows; --rows 0 prints all", err=True)


def _print_csv(session: duckdb.DuckDBPyConnection, query: str, output: Output) -> None:
    writer = csv.writer(sys.stdout, lineterminator="\n")
    writer.writerow(session.sql(query).columns)
    for row in _rows(session, query, output):
        writer.writerow(row)


def _print_json(session: duckdb.DuckDBPyConnection, query: str, output: Output) -> None:
    separator = "[\n"
    for (record,) in _rows(session, f"SELECT to_json(record) FROM ({query}) AS record", output):
        typer.echo(separator + record, nl=False)
        separator = ",\n"
    typer.echo("[]" if separator == "[\n" else "\n]")


_PRINTERS = {Format.TABLE: _print_table, Format.CSV: _print_csv, Format.JSON: _print_json}


def _rows(session: duckdb.DuckDBPyConnection, query: str, output: Output) -> Iterator[tuple[str, ...]]:
    session.execute(f"{query} LIMIT {output.limit}" if output.limit else query)
    while rows := session.fetchmany(_BATCH):
        yield from rows


def _quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'


def _load_history() -> None:
    """Load the lines of earlier sessions, and save those of this one at exit if the disk allows it."""
    try:
        import readline  # gives `input` its line editing; Windows has none
    except ImportError:
        return
    state = os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state"
    path = Path(state) / "subject-diffusion" / "inspect_history"
    with contextlib.suppress(OSError):
        readline.read_history_file(path)
    readline.set_history_length(_LINES_OF_HISTORY)
    atexit.register(_save_history, path)


def _save_history(path: Path) -> None:
    import readline

    with contextlib.suppress(OSError):
        path.parent.mkdir(parents=True, exist_ok=True)
        readline.write_history_file(path)
