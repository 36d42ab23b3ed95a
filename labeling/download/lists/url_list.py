"""Plans the shards of the lists of URLs in `urls/`: each list is cut into shards of n rows; its last may have fewer.

Rows and occurrences of a URL are numbered over all lists, in their order. So a list that is added at the end changes no
shard of the lists before it, and its rows with their URLs are duplicates.

The lists are read twice as a stream, and DuckDB numbers the occurrences of each URL on disk, so lists of any length fit
in memory.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import NamedTuple

import pyarrow as pa
from pydantic import TypeAdapter
from upath import UPath

from infra.storage import publish, publish_bytes
from labeling.config import LabelingConfig, Stale
from labeling.download.lists.list_reader import list_digest, list_files, read_slices
from labeling.download.lists.names import key_of, shard_name
from labeling.download.lists.occurrences import Occurrences, Repeat, count_occurrences
from labeling.errors import BadInput, ShardStale
from labeling.sdd.removed import UrlSet, removed_urls
from labeling.sdd.schema import Layer, ListedUrl
from labeling.sdd.shards import ShardStore


@dataclass(frozen=True, slots=True)
class Plan:
    """Last plan; if the lists have not changed, planning again is a no-op."""

    list_sha256: str
    """SHA-256 of each list, separated by spaces."""
    images_per_shard: int
    shards: int
    """Number of shards."""


def plan_urls(config: LabelingConfig) -> list[str]:
    """Write the missing files of `urls/` for the lists `labeling.urls`; return the names of their shards.

    Without a list these are the shards that were planned before. Lists that were added at the end leave all shards
    unchanged; rows that were added at the end of the last list, its full shards.

    Raises:
        BadInput: a list cannot be used; the message says why and what to do.
        ShardStale: `urls/` was planned from other rows, and `labeling.stale` is not rebuild.
    """
    store = ShardStore(config.root)
    shards, plan = len(store.shards(Layer.URLS)), _last_plan(store)
    if not config.lists and plan and plan.shards == shards:
        return [shard_name(number) for number in range(shards)]
    if not config.lists:
        raise BadInput(
            f"labeling.urls is not set and {store.root} has no complete plan of a list: "
            "give the Parquet or CSV file of URLs, or a folder of them"
        )
    lists = [list_files(path) for path in config.lists]
    sha256 = " ".join(map(list_digest, lists))
    if plan != Plan(sha256, config.images_per_shard, shards) or not variants_path(store).exists():
        plan = Plan(sha256, config.images_per_shard, _write_shards(lists, store, config))
        publish_bytes(_plan_path(store), json.dumps(asdict(plan)).encode())
    return [shard_name(number) for number in range(plan.shards)]


def planned_shards(store: ShardStore) -> list[str]:
    """Return the names of the shards of the list that was planned last; empty where there is no plan."""
    plan = _last_plan(store)
    return [shard_name(number) for number in range(plan.shards if plan else 0)]


def variants_path(store: ShardStore) -> UPath:
    """Return the path of the file written by `Occurrences.write_variants`."""
    return store.root / "work" / Layer.URLS / "variants.parquet"


def _write_shards(lists: Sequence[Sequence[UPath]], store: ShardStore, config: LabelingConfig) -> int:
    """Write the missing files of `urls/`; return the number of shards of the lists."""
    with count_occurrences([file for files in lists for file in files]) as occurrences:
        shards, first, removed = 0, 0, removed_urls(store)
        for path, files in zip(config.lists, lists, strict=True):
            list_begin = first
            for table in read_slices(files, config.images_per_shard):
                piece = _Piece(table, first, path, list_begin)
                may_replace = config.stale is Stale.REBUILD
                _write_shard(shard_name(shards), piece, occurrences, store, removed, rebuild=may_replace)
                shards, first = shards + 1, first + table.num_rows
            if first == list_begin:
                raise BadInput(f"labeling.urls={path!r} has no rows: a list needs at least one URL")
        publish(variants_path(store), occurrences.write_variants, replace=True)
    if extra := sorted(set(store.shards(Layer.URLS)) - {shard_name(n) for n in range(shards)}):
        raise ShardStale(
            f"{store.path(Layer.URLS, extra[0])} has rows that labeling.urls={config.urls!r} no longer has: give a "
            "new root, or the list with which the dataset was begun"
        )
    return shards


class _Piece(NamedTuple):
    """Rows of a list that become one shard."""

    table: pa.Table
    first: int
    """Number of its first row, over all lists."""
    path: str
    """The list, as in `labeling.urls`."""
    list_begin: int
    """Number of the list's first row, over all lists."""


def _write_shard(
    shard: str, piece: _Piece, occurrences: Occurrences, store: ShardStore, removed: UrlSet, *, rebuild: bool
) -> None:
    repeats = occurrences.between(piece.first, piece.first + piece.table.num_rows)
    rows = _planned_rows(piece.table, piece.first, repeats)
    stamp, former = _stamp(rows, repeats), store.stamp(Layer.URLS, shard)
    if former and (former.stamp == stamp or (former.stamp == _former_stamp(rows) and not rebuild)):
        return
    if former and not rebuild:
        first = piece.first - piece.list_begin
        raise ShardStale(
            f"{store.path(Layer.URLS, shard)} was not planned from the rows {first} to {first + len(rows) - 1} of "
            f"{piece.path!r}: give a new root, rebuild it with --set labeling.stale=rebuild, or, to add a list to the "
            'dataset, name it after the lists before it: --set \'labeling.urls=["first.parquet", "second.parquet"]\''
        )
    planned = [replace(row, alt_text=None) if row.url in removed else row for row in rows]
    store.write(Layer.URLS, shard, planned, ListedUrl, stamp, replace=True)


def _planned_rows(table: pa.Table, first: int, repeats: Mapping[int, Repeat]) -> list[ListedUrl]:
    """Return the rows of a piece of the list that begins with row `first`, in the order of their keys."""
    rows = []
    for list_row, record in enumerate(table.to_pylist(), first):
        record["url"] = record["url"] or ""
        earlier = repeats[list_row].occurrence if list_row in repeats else 0
        record |= {"list_row": list_row, "key": key_of(record["url"], earlier)}
        rows.append(ListedUrl(**record))
    return sorted(rows, key=lambda row: row.key)


def _stamp(rows: Sequence[ListedUrl], repeats: Mapping[int, Repeat]) -> str:
    """Return a hash of the rows and of the earlier rows with their URLs, which decide whether they are fetched."""
    earlier = [(row.list_row, repeats[row.list_row].values) for row in rows if row.url and row.list_row in repeats]
    return _hash(f"{rows!r}{earlier!r}") if earlier else _former_stamp(rows)


def _former_stamp(rows: Sequence[ListedUrl]) -> str:
    """Return the stamp that earlier versions of this program wrote: a hash of the rows alone."""
    return _hash(repr(rows))


def _hash(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def _plan_path(store: ShardStore) -> UPath:
    return store.root / "work" / Layer.URLS / "plan.json"


def _last_plan(store: ShardStore) -> Plan | None:
    try:
        return TypeAdapter(Plan).validate_json(_plan_path(store).read_bytes())
    except (FileNotFoundError, ValueError):  # if it is damaged, the list is read again
        return None
