"""SQL on a terminal: one query, or a prompt."""

import duckdb
import typer


def run(session: duckdb.DuckDBPyConnection, sql: str) -> bool:
    """Print the result of `sql`; whether it worked."""
    try:
        result = session.sql(sql)
        if result is not None:
            typer.echo(str(result).rstrip())
    except duckdb.Error as error:
        typer.secho(f"error: {error}", fg="red", err=True)
        return False
    return True


def prompt(session: duckdb.DuckDBPyConnection) -> None:
    """Read queries until the input ends."""
    views = session.execute("SELECT view_name FROM duckdb_views() WHERE NOT internal ORDER BY 1").fetchall()
    typer.echo("Views: " + ", ".join(name for (name,) in views) + ". End with Ctrl-D.")
    while True:
        try:
            sql = input("sdd> ").strip().rstrip(";")
        except EOFError:
            typer.echo()
            return
        if sql:
            run(session, sql)
