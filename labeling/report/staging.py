"""The numbers of datasets in a temporary DuckDB file, for the queries of a report.

DuckDB reads all fields of a list of structs, so each query of the entities would read their masks too. Here pyarrow
reads `sdd/` and `ledger/` without masks and pixels, and the queries read the result: a column for each field of an
entity, so a query decodes only the fields that it names.

    sdd       key, shard, caption_hash, words, sizes, aesthetic_score and labels of each image
    entities  label, scores and areas of each entity, and the sizes of its box and its image
    ledger    key, shard, host, verdict and candidates of each input URL, and the rules that these break, once for each
              candidate that breaks them
"""

from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa
from tqdm import tqdm

from infra.temporary import temporary_folder
from labeling.errors import LabelingError
from labeling.sdd.arrow import schema_of
from labeling.sdd.layers import ROWS
from labeling.sdd.query import connect, refuse_no_dataset
from labeling.sdd.schema import Layer
from labeling.sdd.shards import ShardStore

_READERS, _AHEAD = 2, 4
"""Threads that read shards, and shards that may be in memory."""


@dataclass(frozen=True, slots=True)
class _Table:
    """A table of the session, which is made from columns of a layer."""

    name: str
    layer: Layer
    columns: tuple[str, ...]
    """Columns that pyarrow reads, by their paths in the Parquet schema."""
    sql: str
    """Columns of the table, from these columns and the name of the shard in `batches`."""


_ENTITY_COLUMNS = ("label", "score", "box", "mask_area_px", "predicted_iou", "stability")
_TABLES = (
    _Table(
        "sdd",
        Layer.SDD,
        ("key", "caption", "width_px", "height_px", "aesthetic_score", "entities.list.element.label"),
        r"""SELECT key, shard, hash(caption) AS caption_hash,
            len(regexp_extract_all(caption, '\S+'))::INTEGER AS words, width_px, height_px, aesthetic_score,
            [entity.label FOR entity IN entities] AS labels
        FROM batches""",
    ),
    _Table(
        "entities",
        Layer.SDD,
        ("width_px", "height_px", *(f"entities.list.element.{name}" for name in _ENTITY_COLUMNS)),
        """SELECT entity.* EXCLUDE (box), greatest(entity.box.x1 - entity.box.x0, 0) AS box_width_px,
            greatest(entity.box.y1 - entity.box.y0, 0) AS box_height_px, width_px, height_px
        FROM (SELECT width_px, height_px, unnest(entities) AS entity FROM batches)""",
    ),
    _Table(
        "ledger",
        Layer.LEDGER,
        ("key", "url", "state", "stage", "reason", "candidates.list.element.broken"),
        """SELECT key, shard, host_of(url) AS host, state, stage, reason, len(candidates)::INTEGER AS candidates,
            flatten([candidate.broken FOR candidate IN candidates]) AS broken
        FROM batches""",
    ),
)


@dataclass(frozen=True, slots=True)
class StagedDataset:
    """Tables `sdd`, `entities` and `ledger` of a dataset in a DuckDB session."""

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
        names = {table.name: f"{self.name}.{table.name}" for table in _TABLES}
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
    for table in _TABLES:
        _make_table(dataset, table)
    return dataset


def _make_table(dataset: StagedDataset, table: _Table) -> None:
    read = _read_shards(dataset.store, table)
    first = next(read, None) or (_SHARD_OF_NONE, schema_of(ROWS[table.layer]).empty_table())
    schema = first[1].schema.remove_metadata().append(pa.field("shard", pa.string()))

    def batches() -> Iterator[pa.RecordBatch]:
        for shard, rows in chain([first], read):
            whole = rows.append_column("shard", pa.array([shard] * len(rows), pa.string()))
            yield from whole.cast(schema).combine_chunks().to_batches()

    dataset.session.register("batches", pa.RecordBatchReader.from_batches(schema, batches()))
    dataset.session.execute(f"CREATE TABLE {dataset.name}.{table.name} AS {table.sql}")
    dataset.session.unregister("batches")


_SHARD_OF_NONE = ""


def _read_shards(store: ShardStore, table: _Table) -> Iterator[tuple[str, pa.Table]]:
    """Yield the names of shards with the columns of the table, read ahead in threads."""
    shards = tqdm(store.shards(table.layer), f"reading {table.layer}/", unit="shard", disable=None)
    with ThreadPoolExecutor(_READERS) as readers:
        ahead: deque[tuple[str, Future[pa.Table]]] = deque()
        for shard in shards:
            ahead.append((shard, readers.submit(_read_shard, store, table, shard)))
            if len(ahead) >= _AHEAD:
                name, rows = ahead.popleft()
                yield name, rows.result()
        for name, rows in ahead:
            yield name, rows.result()


def _read_shard(store: ShardStore, table: _Table, shard: str) -> pa.Table:
    with store.open_file(table.layer, shard) as file:
        return file.read(columns=list(table.columns))
