"""Planned rows of a list, by columns: their keys, their order in a shard, and the stamp of the shard.

Everything here is done for many shards at once: calls of pyarrow on a single shard would cost more than their work.
"""

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from labeling.download.lists.names import key_of
from labeling.download.lists.occurrences import Occurrences, Repeat
from labeling.download.lists.row_text import list_texts
from labeling.sdd.arrow import schema_of
from labeling.sdd.removed import UrlSet
from labeling.sdd.schema import ListedUrl


@dataclass(frozen=True, slots=True)
class PlannedShard:
    """Rows of a list that become one shard."""

    table: pa.Table
    """Rows in the order of their keys, with the columns of `urls/`."""
    first: int
    """Number of its first row in the list, over all lists."""
    stamp: str
    """Hash of the rows and of the earlier rows with their URLs, which decide whether they are fetched."""
    former_stamp: str
    """Stamp that earlier versions of this program wrote: a hash of the rows alone."""


def plan_shards(table: pa.Table, first: int, occurrences: Occurrences, rows: int) -> Iterator[PlannedShard]:
    """Yield the shards of a piece of the list.

    Args:
        table: rows of the list, as `list_reader.read_slices` yields them.
        first: number of its first row, over all lists.
        occurrences: keys and repeats of all rows.
        rows: rows of each shard; the last may have fewer.
    """
    repeats = occurrences.between(first, first + table.num_rows)
    listed = _with_keys(table, first, occurrences, repeats)
    shards = [listed.slice(start, rows).sort_by("key") for start in range(0, listed.num_rows, rows)]
    texts = list_texts(pa.concat_tables(shards), rows)
    for number, (shard, text) in enumerate(zip(shards, texts, strict=True)):
        earlier = _earlier_rows(shard, repeats)
        former_stamp = _stamp(text)
        yield PlannedShard(
            shard, first + number * rows, _stamp(text, earlier) if earlier else former_stamp, former_stamp
        )


def without_removed_texts(table: pa.Table, removed: UrlSet) -> pa.Table:
    """Return the rows without the alternative texts of removed URLs."""
    if not (removed.urls or removed.hosts):
        return table
    pairs = zip(table["url"].to_pylist(), table["alt_text"].to_pylist(), strict=True)
    texts = pa.array([None if url in removed else text for url, text in pairs], pa.string())
    return table.set_column(table.column_names.index("alt_text"), table.schema.field("alt_text"), texts)


def _with_keys(table: pa.Table, first: int, occurrences: Occurrences, repeats: Mapping[int, Repeat]) -> pa.Table:
    """Return the columns of `urls/`, in the order of the list; a missing URL is empty."""
    stop = first + table.num_rows
    urls = table["url"].combine_chunks().fill_null("")
    keys = occurrences.first_keys(first, stop)
    if repeats:
        repeated = [row - first for row in repeats]
        own_keys = [
            key_of(urls[at].as_py(), repeat.occurrence) for at, repeat in zip(repeated, repeats.values(), strict=True)
        ]
        is_repeated = np.zeros(table.num_rows, np.bool_)
        is_repeated[repeated] = True
        keys = pc.replace_with_mask(keys, pa.array(is_repeated), pa.array(own_keys, keys.type))
    made = {"key": keys, "list_row": pa.arange(first, stop), "url": urls}
    schema = schema_of(ListedUrl)
    return pa.table([made[name] if name in made else table[name] for name in schema.names], schema=schema)


def _earlier_rows(shard: pa.Table, repeats: Mapping[int, Repeat]) -> list[tuple[int, str]]:
    """Return the rows that repeat a URL, in the order of their keys, with the `Repeat.values` of each."""
    rows = [(at, row) for at, row in enumerate(shard["list_row"].to_pylist()) if row in repeats]
    return [(row, repeats[row].values) for at, row in rows if shard["url"][at].as_py()]


def _stamp(text: memoryview, earlier: list[tuple[int, str]] | None = None) -> str:
    digest = hashlib.sha256(b"[")
    digest.update(text)
    digest.update(b"]" if earlier is None else f"]{earlier!r}".encode())
    return digest.hexdigest()[:12]
