"""Samples of a dataset with a fixed seed, and the rows of single images.

The order of the sample is a hash of the image's key, so it does not depend on shards or on the machine.
"""

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TypeVar

from labeling.report.staging import StagedDataset
from labeling.sdd.arrow import names_of, row_of
from labeling.sdd.schema import Layer, State
from labeling.sdd.shards import ShardStore

R = TypeVar("R")
ORDER = "md5(encode('sample 0') || key)"
"""SQL by which samples are drawn."""


@dataclass(frozen=True, slots=True)
class Sample:
    """An image of a sample, with its verdict."""

    key: bytes
    shard: str
    state: str = State.KEPT
    stage: str = Layer.SDD
    reason: str = ""


def kept_sample(dataset: StagedDataset, count: int) -> list[Sample]:
    """Draw images of the dataset."""
    rows = dataset.rows(f"SELECT key, shard FROM {{sdd}} ORDER BY {ORDER} LIMIT {count}")
    return [Sample(key, shard) for key, shard in rows]


def dropped_sample(dataset: StagedDataset, per_reason: int) -> list[Sample]:
    """Draw up to `per_reason` images of each stage and reason that left the dataset after their download."""
    rows = dataset.rows(
        f"WITH drawn AS (SELECT arg_min({{{{'key': key, 'shard': shard}}}}, {ORDER}, {per_reason}) AS images, "
        f"state, stage, reason FROM {{ledger}} WHERE state <> '{State.KEPT}' AND stage <> '{Layer.IMAGES}' "
        "GROUP BY state, stage, reason), each_image AS (SELECT unnest(images) AS image, * FROM drawn) "
        "SELECT image.key, image.shard, state, stage, reason FROM each_image ORDER BY stage, reason, image.key"
    )
    return [Sample(*row) for row in rows]


def rows_of_samples(store: ShardStore, layer: str, row: type[R], samples: Iterable[Sample]) -> dict[bytes, R]:
    """Return the rows of a layer for these images, by key; images that the layer lacks are missing.

    Reads the keys of their shards, and the row groups that hold them.

    Raises:
        ShardCorrupt: a file is damaged.
    """
    by_shard: dict[str, list[bytes]] = defaultdict(list)
    for sample in samples:
        by_shard[sample.shard].append(sample.key)
    found: dict[bytes, R] = {}
    for shard, keys in sorted(by_shard.items()):
        if store.path(layer, shard).exists():
            found |= _rows(store, layer, shard, row, keys)
    return found


def _rows(store: ShardStore, layer: str, shard: str, row: type[R], keys: Sequence[bytes]) -> dict[bytes, R]:
    wanted = set(keys)
    found: dict[bytes, R] = {}
    with store.open_file(layer, shard) as file:
        stored = set(file.schema_arrow.names)
        columns = [name for name in names_of(row) if name in stored]
        for group in range(file.num_row_groups):
            if wanted.isdisjoint(file.read_row_group(group, columns=["key"])["key"].to_pylist()):
                continue
            for record in file.read_row_group(group, columns=columns).to_pylist():
                if record["key"] in wanted:
                    found[record["key"]] = row_of(row, record)
    return found
