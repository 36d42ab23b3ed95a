"""A dataset folder in DuckDB: the views of infra/duckdb/sdd.sql over whichever layers are there."""

from pathlib import Path

import duckdb

from infra.storage import is_local, place

VIEWS = Path(__file__).parents[2] / "infra" / "duckdb" / "sdd.sql"


def connect(root: str) -> duckdb.DuckDBPyConnection:
    """A DuckDB session with the views of the layers that `root` has; the others are left out."""
    folder = place(root)
    session = duckdb.connect(config={"python_enable_replacements": False})  # a table is a table, never a variable
    if not is_local(folder):
        session.register_filesystem(folder.fs)
    session.execute("SET VARIABLE root = ?", [folder.path if is_local(folder) else str(folder)])
    for statement in duckdb.extract_statements(VIEWS.read_text()):
        try:
            session.execute(statement)
        except (duckdb.IOException, duckdb.CatalogException):
            continue  # no file of this layer yet, or a view over one that is left out
    return session


def funnel(root: str) -> list[tuple[str, str, str, int, float]]:
    """state, stage, reason, URLs and share of what became of the input; empty before the first ledger file."""
    session = connect(root)
    try:
        return session.execute("FROM funnel").fetchall()
    except duckdb.CatalogException:
        return []
