"""DuckDB sessions over a dataset folder, with the views of infra/duckdb/sdd.sql over its existing layers."""

import glob
import re
import types
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TypeAlias

import duckdb
from duckdb import StatementType
from upath import UPath

from infra.storage import is_local, refuse_unreadable, storage_path
from labeling.errors import LabelingError, ShardCorrupt
from labeling.sdd.membership import own_shards, refuse_foreign_files, refuse_unlisted_files
from labeling.sdd.schema import Layer, LedgerRow
from labeling.sdd.shards import ShardStore

VIEWS = Path(__file__).parents[2] / "infra" / "duckdb"
_OF_MOST_VIEWS = (Layer.SDD, Layer.LEDGER)
"""Layers that most views are over, which each session checks."""
_VIEWS_OF_LAYERS = {Layer.IMAGES: {"candidates"}, Layer.ENTITIES: {"candidates"}}
"""Views with other names than their layer, over layers of version 1."""
READING = frozenset(
    {
        StatementType.SELECT,
        StatementType.EXPLAIN,
        StatementType.CREATE,
        StatementType.DROP,
        StatementType.SET,
        StatementType.PRAGMA,
        StatementType.CALL,
        StatementType.MULTI,
    }
)
"""Kinds of statements that write no file: tables and views are in memory, and MULTI is PIVOT."""
_GAP = r"(?:\s|/\*.*?\*/|--[^\n]*\n)*"
_EXPLAIN = re.compile(rf"{_GAP}EXPLAIN{_GAP}(?:ANALYZE\b|\([^)]*\))?", re.IGNORECASE | re.DOTALL)

_PRAGMA = re.compile(
    rf"{_GAP}PRAGMA{_GAP}(?:collations|database_list|database_size|functions|platform|show_databases|show_tables"
    r"(?:_expanded)?|storage_info|table_info|user_agent|version)\b",
    re.IGNORECASE | re.DOTALL,
)
"""Pragmas that only read. DuckDB counts IMPORT DATABASE, which runs the statements of a file, as a pragma too."""


def refuse_no_dataset(root: str) -> None:
    """Check that a folder holds a dataset, or at least its list of URLs.

    Raises:
        LabelingError: `root` has neither.
        SettingsError: the storage does not answer.
    """
    folder = storage_path(root)
    refuse_unreadable(folder, "the dataset")
    if not any((folder / layer).exists() for layer in (Layer.URLS, Layer.SDD)):
        raise LabelingError(
            f"{root}: not a dataset (neither urls/ nor sdd/ exists): give the labeling.root of its build"
        )


def refuse_writes(sql: str) -> None:
    """Check that `sql` holds only queries. DuckDB itself reports invalid SQL.

    Raises:
        LabelingError: a statement may write files.
    """
    for statement in duckdb.extract_statements(sql):
        if statement.type is StatementType.EXPLAIN:  # EXPLAIN ANALYZE runs the statement
            refuse_writes(_EXPLAIN.sub("", statement.query, count=1))
        if statement.type is StatementType.PRAGMA and not _PRAGMA.match(statement.query):
            raise LabelingError(f"{' '.join(statement.query.split())[:60]} may write files: allow it with --unsafe")
        if statement.type not in READING:
            raise LabelingError(f"{statement.type.name} may write files: allow it with --unsafe")


def connect(
    root: str, *, unsafe: bool = False, settings: Mapping[str, str] = types.MappingProxyType({})
) -> duckdb.DuckDBPyConnection:
    """Open a DuckDB session with the views of the layers that `root` has.

    The session reads no other files, loads no extensions, and its settings are locked. DuckDB's own limits do not keep
    it from writing where it may read: see `refuse_writes`. The footers of sdd/ and ledger/ are checked; `LayerChecks`
    checks those of the other layers.

    Args:
        root: folder of the dataset.
        unsafe: remove all these limits.
        settings: settings of DuckDB, such as its memory_limit.

    Raises:
        ShardCorrupt: a file is damaged, or not part of the dataset.
    """
    store = ShardStore(root)
    refuse_unlisted_files(store)
    session = _session(root)
    _refuse_foreign_files(session, store, _OF_MOST_VIEWS)
    for name, value in settings.items():
        session.execute(f"SET {name} = {_string(value)}")
    if not unsafe:
        confine(session, root)
    return session


def open_cursor(session: duckdb.DuckDBPyConnection, root: str) -> duckdb.DuckDBPyConnection:
    """Return a cursor of a session of `connect`, with which another thread may query at the same time."""
    cursor = session.cursor()
    cursor.execute("SET VARIABLE root = ?", [dataset_pattern(root)])
    return cursor


def dataset_pattern(root: str) -> str:
    """Return the folder of the dataset as DuckDB's patterns of file names need it."""
    return glob.escape(_duckdb_path(storage_path(root)))


class LayerChecks:
    """Checks the footers of a layer's files before the first statement that names the layer.

    A session reads every file of a layer as part of it, so one of another dataset would be counted. Layers that are not
    queried are not checked, which would take about as long as a query of each.

    Args:
        session: session of `connect`.
        root: folder of the dataset.
    """

    def __init__(self, session: duckdb.DuckDBPyConnection, root: str) -> None:
        self._session, self._store = session, ShardStore(root)
        self._checked = set(_OF_MOST_VIEWS)

    def refuse_foreign_files(self, sql: str) -> None:
        """Check the layers that occur as words in `sql`, and have not been checked before.

        Raises:
            ShardCorrupt: a file is damaged, or not part of the dataset.
        """
        words = set(re.findall(r"\w+", sql.lower()))
        named = {layer for layer in Layer if layer in words or words & _VIEWS_OF_LAYERS.get(layer, set())}
        _refuse_foreign_files(self._session, self._store, sorted(named - self._checked))
        self._checked |= named


FunnelRow: TypeAlias = tuple[str, str, str, int, float]
"""State, stage and reason of a verdict, the number of URLs with it, and their share."""


def funnel(root: str) -> list[FunnelRow]:
    """Return a row for each verdict, in the order of the stages; empty before the first ledger file.

    Raises:
        ShardCorrupt: a file of ledger/ is damaged, or not part of the dataset.
    """
    store = ShardStore(root)
    shards = own_shards(store, Layer.LEDGER)
    try:
        return _session(root).execute("FROM funnel").fetchall()
    except duckdb.CatalogException:
        return []
    except duckdb.Error as error:
        for shard in shards:
            list(store.read(LedgerRow, (Layer.LEDGER,), shard))  # raises an error that names the file, unlike DuckDB
        raise ShardCorrupt(f"{store.root / Layer.LEDGER} cannot be read: {' '.join(str(error).split())}") from error


def _refuse_foreign_files(session: duckdb.DuckDBPyConnection, store: ShardStore, layers: Sequence[Layer]) -> None:
    """Check the footers of these layers' files; the message names the first file that does not belong to the dataset.

    Raises:
        ShardCorrupt: a file is damaged, or not part of the dataset.
    """
    if not _is_one_dataset(session, store, layers):
        for layer in layers:
            refuse_foreign_files(store, layer)


def _is_one_dataset(session: duckdb.DuckDBPyConnection, store: ShardStore, layers: Sequence[Layer]) -> bool:
    """Return whether `refuse_foreign_files` would accept these layers.

    DuckDB reads footers in a third of the time, but does not name a damaged one.
    """
    places = [(layer, shard) for layer in layers for shard in store.shards(layer)]
    if not places:
        return True
    patterns = _strings({f"{glob.escape(_duckdb_path(store.root / layer))}/*.parquet" for layer, _ in places})
    try:
        rows = session.execute(
            "SELECT parse_path(file_name)[-2:], map_from_entries(list((decode(key), decode(value)))) "
            f"FROM parquet_kv_metadata({patterns}) GROUP BY file_name"
        ).fetchall()
    except duckdb.Error:
        return False
    footers = {f"{layer}/{file.removesuffix('.parquet')}": footer for (layer, file), footer in rows}
    return (
        footers.keys() >= {f"{layer}/{shard}" for layer, shard in places}
        and all("stamp" in footer and footer.get("name") in (None, name) for name, footer in footers.items())
        and {footer.get("dataset") for footer in footers.values()} <= {None, store.dataset()}
        and all(
            footers.get(f"{Layer.LEDGER}/{shard}", {}).get("stamp") in (None, footers[f"{layer}/{shard}"]["stamp"])
            for layer, shard in places
            if layer is Layer.SDD
        )
    )


def _session(root: str) -> duckdb.DuckDBPyConnection:
    folder = storage_path(root)
    session = duckdb.connect(
        config={"python_enable_replacements": False}
    )  # or a table name could mean a Python variable
    if not is_local(folder):
        session.register_filesystem(folder.fs)
    session.execute("SET VARIABLE root = ?", [dataset_pattern(root)])
    store = ShardStore(root)
    if any(store.version(layer) == 1 for layer in (Layer.NOUNS, Layer.DETECTIONS, Layer.SDD, Layer.LEDGER)):
        _define(session, "version_1.sql")
    _define(session, "sdd.sql")
    return session


def _define(session: duckdb.DuckDBPyConnection, file: str) -> None:
    """Run the statements of `file`, except views over files that are missing or of another version."""
    for statement in duckdb.extract_statements((VIEWS / file).read_text()):
        try:
            session.execute(statement)
        except (duckdb.CatalogException, duckdb.BinderException):
            continue
        except (duckdb.IOException, duckdb.InvalidInputException) as error:
            if "No files found" not in str(error):
                raise ShardCorrupt(f"{' '.join(str(error).split())}: move it away and run again") from error


def confine(session: duckdb.DuckDBPyConnection, root: str) -> None:
    """Restrict the session to reading the dataset, irrevocably. Databases that are attached stay so."""
    folder = storage_path(root)
    path = _duckdb_path(folder)
    listed = (
        path if is_local(folder) else folder.fs.unstrip_protocol(folder.path)
    )  # the form in which its listings return paths
    session.execute(f"SET allowed_directories = {_strings({f'{path}/', f'{glob.escape(path)}/', f'{listed}/'})}")
    session.execute("SET enable_external_access = false")
    session.execute("SET lock_configuration = true")


def _duckdb_path(folder: UPath) -> str:
    return folder.path if is_local(folder) else str(folder)


def _strings(values: Iterable[str]) -> str:
    """Return a list of strings in SQL, as SET takes no parameters."""
    return "[" + ", ".join(map(_string, sorted(values))) + "]"


def _string(value: str) -> str:
    return "'" + value.replace("'", "''") + "'"
