"""A dataset folder in DuckDB: the views of infra/duckdb/sdd.sql over whichever layers are there."""

import glob
from pathlib import Path

import duckdb

from infra.storage import is_local, place
from labeling.errors import LabelingError, ShardCorrupt

VIEWS = Path(__file__).parents[2] / "infra" / "duckdb"


def refuse_no_dataset(root: str) -> None:
    """Look whether there is anything to be shown.

    Raises:
        LabelingError: `root` holds neither the list of a build nor a dataset.
    """
    if not any((place(root) / layer).exists() for layer in ("urls", "sdd")):
        raise LabelingError(f"{root}: no dataset is there (no urls/ and no sdd/): give the labeling.root of its build")


def connect(root: str) -> duckdb.DuckDBPyConnection:
    """A DuckDB session with the views of the layers that `root` has; the others are left out.

    Raises:
        ShardCorrupt: a layer begins with a file that is not Parquet.
    """
    folder = place(root)
    session = duckdb.connect(config={"python_enable_replacements": False})  # a table is a table, never a variable
    if not is_local(folder):
        session.register_filesystem(folder.fs)
    session.execute("SET VARIABLE root = ?", [glob.escape(folder.path if is_local(folder) else str(folder))])
    _define(session, "version_1.sql")
    _define(session, "sdd.sql")
    return session


def _define(session: duckdb.DuckDBPyConnection, file: str) -> None:
    """Run the statements of `file`, without the views over files that are not there or are of another version."""
    for statement in duckdb.extract_statements((VIEWS / file).read_text()):
        try:
            session.execute(statement)
        except (duckdb.CatalogException, duckdb.BinderException):
            continue
        except duckdb.IOException as error:
            if "No files found" not in str(error):
                raise
        except duckdb.InvalidInputException as error:
            raise ShardCorrupt(f"{' '.join(str(error).split())}: move it away and run again") from error


def funnel(root: str) -> list[tuple[str, str, str, int, float]]:
    """state, stage, reason, URLs and share of what became of the input; empty before the first ledger file."""
    session = connect(root)
    try:
        return session.execute("FROM funnel").fetchall()
    except duckdb.CatalogException:
        return []
