"""Plans the shards of a list of URLs in `urls/`: shard i has the rows [i*n, (i+1)*n) of the list.

The list is read twice as a stream, and DuckDB numbers the occurrences of each URL on disk, so a list of any length
fits in memory.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass

import pyarrow as pa
from pydantic import TypeAdapter
from upath import UPath

from infra.storage import publish, publish_bytes
from labeling.config import LabelingConfig, Stale
from labeling.download.lists.list_reader import list_digest, list_files, read_slices
from labeling.download.lists.names import key_of, shard_name
from labeling.download.lists.occurrences import Occurrences, Repeat, count_occurrences
from labeling.errors import BadInput, ShardStale
from labeling.sdd.schema import Layer, ListedUrl
from labeling.sdd.shards import ShardStore


@dataclass(frozen=True, slots=True)
class Plan:
    """Plan of the last list; if the list has not changed, planning again is a no-op."""

    list_sha256: str
    images_per_shard: int
    shards: int
    """Number of shards."""


def plan_urls(config: LabelingConfig) -> list[str]:
    """Write the missing files of `urls/` for the list `labeling.urls`; return the names of its shards.

    Without a list these are the shards that were planned before. Rows that were added at the end of a list leave the
    full shards before them unchanged.

    Raises:
        BadInput: the list cannot be used; the message says why and what to do.
        ShardStale: `urls/` was planned from other rows, and `labeling.stale` is not rebuild.
    """
    store = ShardStore(config.root)
    shards, plan = len(store.shards(Layer.URLS)), _last_plan(store)
    if config.urls is None and plan and plan.shards == shards:
        return [shard_name(number) for number in range(shards)]
    if config.urls is None:
        raise BadInput(
            f"labeling.urls is not set and {store.root} has no complete plan of a list: "
            "give the Parquet or CSV file of URLs, or a folder of them"
        )
    files = list_files(config.urls)
    sha256 = list_digest(files)
    if plan != Plan(sha256, config.images_per_shard, shards) or not variants_path(store).exists():
        plan = Plan(sha256, config.images_per_shard, _write_shards(files, store, config))
        publish_bytes(_plan_path(store), json.dumps(asdict(plan)).encode())
    return [shard_name(number) for number in range(plan.shards)]


def planned_shards(store: ShardStore) -> list[str]:
    """Return the names of the shards of the list that was planned last; empty where there is no plan."""
    plan = _last_plan(store)
    return [shard_name(number) for number in range(plan.shards if plan else 0)]


def variants_path(store: ShardStore) -> UPath:
    """Return the path of the file written by `Occurrences.write_variants`."""
    return store.root / "work" / Layer.URLS / "variants.parquet"


def _write_shards(files: Sequence[UPath], store: ShardStore, config: LabelingConfig) -> int:
    """Write the missing files of `urls/`; return the number of shards of the list."""
    with count_occurrences(files) as occurrences:
        number = -1
        for number, table in enumerate(read_slices(files, config.images_per_shard)):
            _write_shard(number, table, occurrences, store, config)
        if number < 0:
            raise BadInput(f"labeling.urls={config.urls!r} has no rows: a list needs at least one URL")
        publish(variants_path(store), occurrences.write_variants, replace=True)
    planned = {shard_name(n) for n in range(number + 1)}
    if extra := sorted(set(store.shards(Layer.URLS)) - planned):
        raise ShardStale(
            f"{store.path(Layer.URLS, extra[0])} has rows that labeling.urls={config.urls!r} no longer has: give a "
            "new root, or the list with which the dataset was begun"
        )
    return number + 1


def _write_shard(
    number: int, table: pa.Table, occurrences: Occurrences, store: ShardStore, config: LabelingConfig
) -> None:
    first, shard = number * config.images_per_shard, shard_name(number)
    repeats = occurrences.between(first, first + table.num_rows)
    rows = _planned_rows(table, first, repeats)
    stamp, rebuild = _stamp(rows, repeats), config.stale is Stale.REBUILD
    former = store.stamp(Layer.URLS, shard)
    if former and (former.stamp == stamp or (former.stamp == _former_stamp(rows) and not rebuild)):
        return
    if former and not rebuild:
        last = first + table.num_rows - 1
        raise ShardStale(
            f"{store.path(Layer.URLS, shard)} was not planned from the rows {first} to {last} of {config.urls!r}: "
            "give a new root, or rebuild it with --set labeling.stale=rebuild"
        )
    store.write(Layer.URLS, shard, rows, ListedUrl, stamp, replace=True)


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
