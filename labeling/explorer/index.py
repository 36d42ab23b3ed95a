"""The explorer's index: what pages, facets and searches need of each image, in a DuckDB table.

Shards have row groups of 64 rows and a list of boxes in each row, so counting labels in the shards takes seconds for
each million rows, and a fraction of that in the index. It is made when the explorer starts, and kept in the cache until
a file of the ledger changes. Boxes of the images on a page are read from the ledger.

    explored    shard, key, url, state, stage, reason, width_px, height_px, labels (of entities that break no rule),
                rules (that candidates break), is_corrected and quality of each input URL, roughly in the order of
                shards
    texts       key and caption of each captioned image
    all_by_...  the counts of each facet over all images
    judged      the ledger with the shard of each row
"""

import hashlib
import logging
import uuid
from pathlib import Path

import duckdb

from labeling.explorer.facets import Facet, count_sql, table_of
from labeling.sdd.schema import CONFIRMATIONS, Layer
from labeling.sdd.shards import ShardStore

log = logging.getLogger(__name__)
_VERSION = 4
"""Version of the tables, to be raised when they change."""
_JUDGED = """
CREATE VIEW judged AS
SELECT parse_filename(filename, true) AS shard, key, url, state, stage, reason, {sizes}, candidates,
    {corrections} AS corrections
FROM read_parquet(getvariable('root') || '/ledger/*.parquet', filename = true)
"""
_EXPLORED = """
CREATE TABLE {}.explored AS
SELECT shard, key, url, state, stage, reason, width_px, height_px,
    [c.label FOR c IN candidates IF len(c.broken) = 0] AS labels,
    list_distinct(flatten([c.broken FOR c IN candidates])) AS rules, corrections IS NOT NULL AS is_corrected,
    {}::FLOAT AS quality
FROM judged {}
"""
_MASK_QUALITY = "list_min([least(c.predicted_iou, c.stability) FOR c IN candidates IF len(c.broken) = 0])"
"""Lowest score of the segmenter among the entities of an image."""
_CONFIRMED_QUALITY = """
list_min([least(c[1].predicted_iou, c[1].stability, c[2].confirmed_iou, c[2].label_quality, c[2].mask_quality)
    FOR c IN list_zip(candidates, coalesce(confirmations, [])) IF len(c[1].broken) = 0])
"""
"""Lowest label-error score among the entities of an image, where a second detector has run."""
_CONFIRMED = """
LEFT JOIN (SELECT key, confirmations FROM read_parquet(getvariable('root') || '/confirmations/*.parquet')) USING (key)
"""
_TEXTS = "CREATE TABLE {}.texts AS SELECT key, caption FROM {}"
_NO_TEXTS = "CREATE TABLE {}.texts (key BLOB, caption VARCHAR)"


def open_index(session: duckdb.DuckDBPyConnection, store: ShardStore, cache: Path | None) -> None:
    """Give the session the views of the index, and make the index if it is missing or of other files.

    Args:
        session: session that may still attach databases.
        store: the dataset.
        cache: folder of the index; None makes it in memory.
    """
    version = store.version(Layer.LEDGER) or 1
    sizes = "width_px, height_px" if version > 1 else "NULL::INTEGER AS width_px, NULL::INTEGER AS height_px"
    session.execute(_JUDGED.format(sizes=sizes, corrections="corrections" if version > 2 else "NULL"))
    if cache is None:
        _fill(session, "memory", store)
        return
    folder = cache / (store.dataset() or "unknown")
    path = folder / f"index-{_digest(store)}.duckdb"
    if not path.exists():
        _make(session, path, store)
    for former in folder.glob("index-*.duckdb"):
        if former != path:
            former.unlink(missing_ok=True)  # an explorer that has it open keeps it
    session.execute(f"ATTACH {_string(path)} AS indexed (READ_ONLY)")
    for table in ("explored", "texts", *map(table_of, Facet)):
        session.execute(f"CREATE VIEW {table} AS FROM indexed.{table}")


def _make(session: duckdb.DuckDBPyConnection, path: Path, store: ShardStore) -> None:
    """Make the index beside its place, and rename it when it is complete."""
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(f".{uuid.uuid4().hex[:8]}.tmp")
    log.warning("making the index of the dataset, once for each build")
    try:
        session.execute(f"ATTACH {_string(unfinished)} AS made")
        _fill(session, "made", store)
        session.execute("DETACH made")
        unfinished.replace(path)
    finally:
        unfinished.unlink(missing_ok=True)


def _fill(session: duckdb.DuckDBPyConnection, database: str, store: ShardStore) -> None:
    scored = (store.version(Layer.LEDGER) or 1) > 1
    confirmed = scored and store.shards(CONFIRMATIONS)
    quality = _CONFIRMED_QUALITY if confirmed else _MASK_QUALITY if scored else "NULL"
    session.execute("SET preserve_insertion_order = false")  # or whole row groups would wait for their turn in memory
    session.execute(_EXPLORED.format(database, quality, _CONFIRMED if confirmed else ""))
    for facet in Facet:
        counts = count_sql(facet, f"{database}.explored", "true")
        session.execute(f"CREATE TABLE {database}.{table_of(facet)} AS {counts}")
    views = {name for (name,) in session.execute("SELECT view_name FROM duckdb_views()").fetchall()}
    captions = next((view for view in (Layer.CAPTIONS, Layer.SDD) if view in views), None)
    session.execute(_TEXTS.format(database, captions) if captions else _NO_TEXTS.format(database))
    session.execute("RESET preserve_insertion_order")


def _digest(store: ShardStore) -> str:
    """Return hex digits that change with the files of the ledger and of the second detector."""
    digest = hashlib.sha256(f"{_VERSION}".encode())
    for layer in (Layer.LEDGER, CONFIRMATIONS):
        for name in store.names(layer):
            status = store.path(layer, name).stat()
            digest.update(f"{layer}/{name} {status.st_size} {getattr(status, 'st_mtime_ns', 0)}\n".encode())
    return digest.hexdigest()[:16]


def _string(path: Path) -> str:
    return "'" + str(path).replace("'", "''") + "'"
