"""What planning a list of URLs costs. Results: docs/benchmarks/control-plane.md."""

import hashlib
import os
import shutil
from functools import partial
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from labeling.config import LabelingConfig
from labeling.download.lists.list_reader import list_files, read_slices
from labeling.download.lists.names import key_of, shard_name
from labeling.download.lists.url_list import plan_urls
from labeling.sdd.schema import ListedUrl
from labeling.sdd.shards import ShardStore
from tests.benchmarks.history import Better
from tests.benchmarks.pairs import cpu_seconds_of, in_turns

pytestmark = pytest.mark.bench
ROWS = int(os.environ.get("ROWS", "100000"))
"""Rows of the list."""
ROWS_AT_ONCE = 1_000_000
"""Rows of a list to make at once."""
WORDS = ["a", "photo", "of", "the", "dog", "vintage", "poster", "canvas", "print", "stock", "café", "it's"]


def write_list(path: Path, rows: int = ROWS) -> None:
    """Write a list with the columns and sizes of LAION-Aesthetics; two rows in a hundred repeat a URL."""
    rng = np.random.default_rng(0)
    writer = None
    for first in range(0, rows, ROWS_AT_ONCE):
        table = pa.table(make_rows(rng, first, min(ROWS_AT_ONCE, rows - first), rows))
        writer = writer or pq.ParquetWriter(path, table.schema)
        writer.write_table(table)
    if writer:
        writer.close()


def make_rows(rng: np.random.Generator, first: int, count: int, of: int) -> dict[str, object]:
    """Return the columns of `count` rows from number `first` of a list of `of` rows."""
    ids = np.where(rng.random(count) < 0.02, rng.integers(0, of, count), np.arange(first, first + count)).tolist()
    names = [hashlib.sha256(str(i).encode()).hexdigest()[:16] for i in ids]
    return {
        "URL": [
            f"https://cdn{i % 1000}.shop-{i % 50021}.example.com/media/catalog/{n[:2]}/{n}.jpg"
            for i, n in zip(ids, names, strict=True)
        ],
        "TEXT": [" ".join(WORDS[i] for i in row) for row in rng.integers(0, len(WORDS), (count, 9)).tolist()],
        "WIDTH": rng.integers(200, 4000, count),
        "HEIGHT": rng.integers(200, 4000, count),
        "hash": rng.integers(-(2**63), 2**63 - 1, count),
        "similarity": rng.random(count, np.float32),
        "punsafe": rng.random(count, np.float32) ** 8,
        "pwatermark": rng.random(count, np.float32),
        "AESTHETIC_SCORE": 5 + 2 * rng.random(count, np.float32),
    }


def plan_by_rows(urls: str, root: Path) -> None:
    """Plan with an object for each row, without numbering the repeated URLs."""
    store = ShardStore(str(root))
    for number, table in enumerate(read_slices(list_files(urls), 1024)):
        records = (
            record | {"key": key_of(record["url"], row), "list_row": row}
            for row, record in enumerate(table.to_pylist())
        )
        rows = sorted((ListedUrl(**record) for record in records), key=lambda row: row.key)
        stamp = hashlib.sha256(repr(rows).encode()).hexdigest()[:12]
        store.write("urls", shard_name(number), rows, ListedUrl, stamp)


def test_planning_by_columns_costs_less_than_an_object_for_each_row(tmp_path, record):
    write_list(tmp_path / "list.parquet")
    urls, root = str(tmp_path / "list.parquet"), tmp_path / "sdd"

    def cost(plan):
        shutil.rmtree(root, ignore_errors=True)
        return cpu_seconds_of(plan) * 1e6 / ROWS

    by_rows = partial(cost, partial(plan_by_rows, urls, root))
    by_columns = partial(cost, partial(plan_urls, LabelingConfig(root=str(root), urls=urls)))
    by_columns()
    before, after, ratio = in_turns(by_rows, by_columns)
    print(f"\nplanning {ROWS:,} rows by objects: {before:.1f} CPU µs a row")
    record(f"planning {ROWS:,} rows by columns", after, "CPU µs a row")
    record(f"planning {ROWS:,} rows by objects over by columns", ratio, better=Better.MORE)
    assert ratio.median >= 3
