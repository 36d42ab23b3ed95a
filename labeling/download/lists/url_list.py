"""Plans the shards of the lists of URLs in `urls/`: each list is cut into shards of n rows; its last may have fewer.

Rows and occurrences of a URL are numbered over all lists, in their order. So a list that is added at the end changes no
shard of the lists before it, and its rows with their URLs are duplicates.

The lists are read twice as a stream of tables, and DuckDB numbers the occurrences of each URL on disk, so lists of any
length fit in memory. No row becomes a Python object.
"""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass

from pydantic import TypeAdapter
from upath import UPath

from infra.storage import publish, publish_bytes
from labeling.config import LabelingConfig, Stale
from labeling.download.lists.list_reader import ROWS_AT_ONCE, list_digest, list_files, read_slices
from labeling.download.lists.names import shard_name
from labeling.download.lists.occurrences import count_occurrences
from labeling.download.lists.planned_rows import PlannedShard, plan_shards, without_removed_texts
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
    rows = config.images_per_shard
    rows_at_once = rows * max(1, ROWS_AT_ONCE // rows)
    with count_occurrences([file for files in lists for file in files]) as occurrences:
        shards, first, writer = 0, 0, _ShardWriter(store, removed_urls(store), config.stale is Stale.REBUILD)
        for path, files in zip(config.lists, lists, strict=True):
            list_begin = first
            for table in read_slices(files, rows_at_once):
                for shard in plan_shards(table, first, occurrences, rows):
                    writer.write(shard_name(shards), shard, path, list_begin)
                    shards += 1
                first += table.num_rows
            if first == list_begin:
                raise BadInput(f"labeling.urls={path!r} has no rows: a list needs at least one URL")
        publish(variants_path(store), occurrences.write_variants, replace=True)
    if extra := sorted(set(store.shards(Layer.URLS)) - {shard_name(n) for n in range(shards)}):
        raise ShardStale(
            f"{store.path(Layer.URLS, extra[0])} has rows that labeling.urls={config.urls!r} no longer has: give a "
            "new root, or the list with which the dataset was begun"
        )
    return shards


@dataclass(frozen=True, slots=True)
class _ShardWriter:
    """Writes the planned shards that have no file yet."""

    store: ShardStore
    removed: UrlSet
    rebuild: bool
    """Whether to replace files of other rows."""

    def write(self, name: str, shard: PlannedShard, path: str, list_begin: int) -> None:
        """Write the file of a shard, unless it exists.

        Args:
            name: name of the shard.
            shard: its rows.
            path: list that they are from, as in `labeling.urls`.
            list_begin: number of the list's first row, over all lists.

        Raises:
            ShardStale: the file has other rows, and `rebuild` is false.
        """
        former = self.store.stamp(Layer.URLS, name)
        if former and (former.stamp == shard.stamp or (former.stamp == shard.former_stamp and not self.rebuild)):
            return
        if former and not self.rebuild:
            first = shard.first - list_begin
            raise ShardStale(
                f"{self.store.path(Layer.URLS, name)} was not planned from the rows {first} to "
                f"{first + shard.table.num_rows - 1} of {path!r}: give a new root, rebuild it with "
                "--set labeling.stale=rebuild, or, to add a list to the dataset, name it after the lists before it: "
                '--set \'labeling.urls=["first.parquet", "second.parquet"]\''
            )
        table = without_removed_texts(shard.table, self.removed)
        self.store.write_table(Layer.URLS, name, table, ListedUrl, shard.stamp, replace=True)


def _plan_path(store: ShardStore) -> UPath:
    return store.root / "work" / Layer.URLS / "plan.json"


def _last_plan(store: ShardStore) -> Plan | None:
    try:
        return TypeAdapter(Plan).validate_json(_plan_path(store).read_bytes())
    except (FileNotFoundError, ValueError):  # if it is damaged, the list is read again
        return None
