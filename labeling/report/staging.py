"""The numbers of datasets in a temporary DuckDB file, for the queries of a report.

DuckDB reads all fields of a list of structs, so each query of the entities would read their masks too. Here pyarrow
reads `sdd/` and `ledger/` once, without masks and pixels, and the queries read the result.
"""

from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa
from tqdm import tqdm

from infra.temporary import temporary_folder
from labeling.errors import LabelingError
from labeling.sdd.arrow import schema_of
from labeling.sdd.query import connect, refuse_no_dataset
from labeling.sdd.schema import Layer, LedgerRow, SddRow
from labeling.sdd.shards import ShardStore

_READERS, _AHEAD = 2, 4
"""Threads that read shards, and shards that may be in memory."""
_COLUMNS = {
    Layer.SDD: (
        *("key", "caption", "width_px", "height_px", "aesthetic_score", "media_type"),
        *(
            f"entities.list.element.{name}"
            for name in ("label", "score", "box", "mask_area_px", "predicted_iou", "stability")
        ),
    ),
    Layer.LEDGER: (
        *("key", "url", "state", "stage", "reason"),
        *(f"candidates.list.element.{name}" for name in ("label", "score", "broken")),
    ),
}
_TABLES = {
    Layer.SDD: r"""
        SELECT key, shard, hash(caption) AS caption_hash, len(regexp_extract_all(caption, '\S+'))::INTEGER AS words,
            width_px, height_px, aesthetic_score, media_type, entities
        FROM batches
    """,
    Layer.LEDGER: """
        SELECT key, shard, host_of(url) AS host, state, stage, reason, candidates FROM batches
    """,
}
"""SQL that makes the table of a layer from what pyarrow reads."""


@dataclass(frozen=True, slots=True)
class StagedDataset:
    """Tables `sdd` and `ledger` of a dataset in a DuckDB session."""

    session: duckdb.DuckDBPyConnection
    store: ShardStore
    name: str
    """Name of the schema in the session."""

    @property
    def root(self) -> str:
        """Folder of the dataset."""
        return str(self.store.root)

    def rows(self, sql: str, *parameters: object) -> list[tuple[Any, ...]]:
        """Return the rows of a query, in which `{sdd}`, `{ledger}` and `{entities}` stand for the dataset's tables."""
        names = {table: f"{self.name}.{table}" for table in ("sdd", "ledger", "entities")}
        rows: list[tuple[Any, ...]] = self.session.execute(sql.format(**names), parameters or None).fetchall()
        return rows


@contextmanager
def staged(roots: Sequence[str], memory_mb: int) -> Iterator[list[StagedDataset]]:
    """Read the numbers of datasets into one DuckDB session, and remove them at the end of the block.

    Args:
        roots: folders of the datasets.
        memory_mb: memory of DuckDB, in MiB. What does not fit is in temporary files.

    Raises:
        LabelingError: a folder holds no dataset, or one without a finished shard.
        ShardCorrupt: a file is damaged, or not part of its dataset.
    """
    for root in roots:
        refuse_no_dataset(root)
    with temporary_folder("subject-diffusion-report-") as folder:
        session = connect(roots[0], unsafe=True)
        try:
            _limit_memory(session, folder, memory_mb)
            yield [_stage(session, root, f"dataset{number}", folder) for number, root in enumerate(roots)]
        finally:
            session.close()


def _limit_memory(session: duckdb.DuckDBPyConnection, folder: Path, memory_mb: int) -> None:
    session.execute(f"SET memory_limit = '{memory_mb}MiB'")
    session.execute(f"SET temp_directory = '{folder}'")
    session.execute("SET preserve_insertion_order = false")


def _stage(session: duckdb.DuckDBPyConnection, root: str, name: str, folder: Path) -> StagedDataset:
    dataset = StagedDataset(session, ShardStore(root), name)
    if name != "dataset0":
        connect(root).close()  # checks its files
    session.execute(f"ATTACH '{folder / name}.duckdb' AS {name}")
    if not dataset.store.shards(Layer.LEDGER) and not dataset.store.shards(Layer.SDD):
        raise LabelingError(f"{root} has no finished shard: `subject-diffusion status {root}` shows its progress")
    _stage_layer(dataset, Layer.SDD, SddRow)
    _stage_layer(dataset, Layer.LEDGER, LedgerRow)
    session.execute(
        f"CREATE VIEW {name}.entities AS SELECT entity.*, "
        "greatest(entity.box.x1 - entity.box.x0, 0) AS box_width_px, "
        "greatest(entity.box.y1 - entity.box.y0, 0) AS box_height_px, width_px, height_px "
        f"FROM (SELECT width_px, height_px, unnest(entities) AS entity FROM {name}.sdd)"
    )
    return dataset


def _stage_layer(dataset: StagedDataset, layer: Layer, row: type) -> None:
    tables = _read_tables(dataset.store, layer)
    first = next(tables, None) or (_SHARD_OF_NONE, schema_of(row).empty_table())
    schema = first[1].schema.remove_metadata().append(pa.field("shard", pa.string()))

    def batches() -> Iterator[pa.RecordBatch]:
        for shard, table in (first, *tables):
            whole = table.append_column("shard", pa.array([shard] * len(table), pa.string()))
            yield from whole.cast(schema).combine_chunks().to_batches()

    dataset.session.register("batches", pa.RecordBatchReader.from_batches(schema, batches()))
    dataset.session.execute(f"CREATE TABLE {dataset.name}.{layer} AS {_TABLES[layer]}")
    dataset.session.unregister("batches")


_SHARD_OF_NONE = ""


def _read_tables(store: ShardStore, layer: Layer) -> Iterator[tuple[str, pa.Table]]:
    """Yield the shards of a layer with their tables, read ahead in threads."""
    shards = tqdm(store.shards(layer), f"reading {layer}/", unit="shard", disable=None)
    with ThreadPoolExecutor(_READERS) as readers:
        ahead: deque[tuple[str, Future[pa.Table]]] = deque()
        for shard in shards:
            ahead.append((shard, readers.submit(_read_table, store, layer, shard)))
            if len(ahead) >= _AHEAD:
                name, table = ahead.popleft()
                yield name, table.result()
        for name, table in ahead:
            yield name, table.result()


def _read_table(store: ShardStore, layer: Layer, shard: str) -> pa.Table:
    with store.open_file(layer, shard) as file:
        return file.read(columns=list(_COLUMNS[layer]))
