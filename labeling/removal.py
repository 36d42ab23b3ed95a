"""Takes images out of a dataset: out of every layer, and for good.

`removed/` gets the URLs and hosts first; then each touched shard is rewritten, layer by layer. A row of the list stays,
with its URL and without its alternative text, and its verdict becomes `dropped`, stage images, reason `removed`. So the
ledger adds up as before.

All work follows from `removed/` and the files, so a removal that was killed is finished by the next one, or by a build.
Stamps stay, so no stage runs again; only those of sdd/ and ledger/ change, so that caches of the images become stale.
"""

import hashlib
from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial

from upath import UPath

from infra.storage import is_local, publish_bytes, sweep
from labeling.correction.mask_job import MASKS
from labeling.errors import BadInput, LabelingError
from labeling.execution.record import RUNNING, read_runs
from labeling.finish import REMOVED_MARK, with_removed
from labeling.quality.marks import Audit, audit_names, read_audit
from labeling.sdd.arrow import Record
from labeling.sdd.corrections import CORRECTIONS, read_review, write_corrections
from labeling.sdd.layers import FOLDERS
from labeling.sdd.lock import shard_lock
from labeling.sdd.removed import REMOVED, VERDICT, Removal, UrlSet, read_removals, removed_urls, write_removal
from labeling.sdd.schema import CONFIRMATIONS, EMBEDDINGS, SIMILAR, Entities, Layer
from labeling.sdd.shards import ShardStore
from labeling.source_index import SourceIndex, index_path

LISTS = (Layer.URLS, Layer.LEDGER, Layer.SDD)
"""Layers that have the URL of every row, in the order in which they are looked for."""
ORDER: tuple[str, ...] = (
    Layer.SDD,
    Layer.LEDGER,
    MASKS,
    CONFIRMATIONS,
    SIMILAR,
    EMBEDDINGS,
    *tuple(Layer)[5:1:-1],
    Layer.URLS,
    Layer.IMAGES,
)
"""Layers in the order in which they are rewritten: each before the one that it was made from."""
_ROWS: Mapping[str, type] = {**FOLDERS, MASKS: Entities}
"""Row class of each folder of `ORDER`."""
_EMPTIED_COLUMNS: Mapping[str, str] = {Layer.URLS: "alt_text", Layer.IMAGES: "reason", Layer.LEDGER: "reason"}
"""Column that shows whether a row was removed, in the layers that keep the row."""


@dataclass(frozen=True, slots=True)
class ShardRemoval:
    """Rows that were removed from a shard."""

    shard: str
    listed: int = 0
    """Rows of the list."""
    kept: int = 0
    """Rows of sdd/."""


def urls_of_keys(store: ShardStore, keys: Collection[bytes]) -> set[str]:
    """Return the URLs of these keys.

    Raises:
        BadInput: the dataset lacks a key.
    """
    rows = (row for _, listed in _read_lists(store) for row in listed)
    urls = {row["key"]: row["url"] for row in rows if row["key"] in keys}
    if missing := sorted(set(keys) - urls.keys()):
        raise BadInput(
            f"{store.root} lacks {len(missing)} of {len(keys)} keys, {missing[0].hex()} first: correct or remove them; "
            "nothing was changed"
        )
    return set(urls.values())


def listed_shards(store: ShardStore) -> list[str]:
    """Return the shards of the list, or of the first layer of `LISTS` in a copy without it."""
    return store.shards(_list_layer(store))


def find_rows(store: ShardStore, urls: UrlSet) -> Iterator[ShardRemoval]:
    """Yield for each shard the rows that a removal of these URLs would remove, without removing any."""
    for shard, listed in _read_lists(store):
        keys = {row["key"] for row in listed if row["url"] in urls}
        kept = _held_keys(store, Layer.SDD, shard, keys) if store.stamp(Layer.SDD, shard) else ()
        yield ShardRemoval(shard, len(keys), len(kept))


def remove(store: ShardStore, name: str, removal: Removal) -> Iterator[ShardRemoval]:
    """Remove the images of these URLs and hosts, and yield what was removed from each shard.

    Args:
        store: the dataset.
        name: name of the removal's file.
        removal: URLs and hosts.

    Raises:
        LabelingError: a build is running.
        ShardCorrupt: a file is damaged.
    """
    for run in read_runs(store.root):
        if run["state"] == RUNNING:
            raise LabelingError(f"{store.root} is being built by {run['name']}: wait until it ends, or stop it")
    write_removal(store, name, removal)
    yield from finish_removals(store)


def pending_removals(store: ShardStore) -> list[str]:
    """Return the names of removals that were not finished."""
    return [name for name in read_removals(store) if not _done_path(store, name).exists()]


def finish_removals(store: ShardStore) -> Iterator[ShardRemoval]:
    """Apply all removals to all shards, and yield what was removed from each; nothing if all are finished."""
    names = pending_removals(store)
    urls = removed_urls(store)
    removed: set[bytes] = set()
    for shard, listed in _read_lists(store) if names else ():
        keys = {row["key"] for row in listed if row["url"] in urls}
        removed |= keys
        yield _remove_from_shard(store, shard, keys) if keys else ShardRemoval(shard)
    if removed:
        _remove_corrections(store, removed)
        _remove_from_audits(store, removed)
        _remove_from_import(store, urls)
    for name in names:
        publish_bytes(_done_path(store, name), b"")


def _remove_from_shard(store: ShardStore, shard: str, keys: Collection[bytes]) -> ShardRemoval:
    with ExitStack() as locks:
        for locked in Layer:
            locks.enter_context(shard_lock(store.root, locked, shard))
        layers = [layer for layer in ORDER if store.stamp(layer, shard)]
        held = {layer: _held_keys(store, layer, shard, keys) for layer in layers}
        if not any(held.values()):
            return ShardRemoval(shard)
        removed = REMOVED_MARK + hashlib.sha256(b"".join(sorted(keys))).hexdigest()[:8]
        for layer in layers:
            _rewrite(store, layer, shard, keys, removed)
    return ShardRemoval(shard, len(set().union(*held.values())), len(held.get(Layer.SDD, ())))


def _rewrite(store: ShardStore, layer: str, shard: str, keys: Collection[bytes], removed: str) -> None:
    former = store.stamp(layer, shard)
    assert former is not None, "only existing files are rewritten"
    if former.removed == removed and not _held_keys(store, layer, shard, keys):
        return
    sweep(store.path(layer, shard))
    stamp = with_removed(former.stamp, removed) if layer in (Layer.SDD, Layer.LEDGER) else former.stamp
    store.rewrite(layer, shard, _ROWS[layer], partial(_changed, layer, keys), stamp=stamp, removed=removed)


def _changed(layer: str, keys: Collection[bytes], record: Record) -> Record | None:
    """Return a row as it is after the removal; None if the layer does not keep it."""
    if record["key"] not in keys:
        return record
    if layer == Layer.URLS:
        return record | {"alt_text": None}
    if layer not in (Layer.IMAGES, Layer.LEDGER):
        return None
    left: Record = {"state": VERDICT.state, "reason": VERDICT.reason, "detail": VERDICT.detail, "key": record["key"]}
    if layer == Layer.LEDGER:
        left |= {"stage": Layer.IMAGES, "candidates": [], "list_row": record["list_row"], "url": record["url"]}
    return dict.fromkeys(record) | left


def _held_keys(store: ShardStore, layer: str, shard: str, keys: Collection[bytes]) -> set[bytes]:
    """Return those keys whose rows in a file hold something to remove."""
    column = _EMPTIED_COLUMNS.get(layer, "key")
    emptied = {"alt_text": None, "reason": REMOVED}.get(column, b"")
    rows = _records(store, layer, shard, {"key", column})
    return {row["key"] for row in rows if row["key"] in keys and row[column] != emptied}


def _read_lists(store: ShardStore) -> Iterator[tuple[str, list[Record]]]:
    """Yield each shard of the list with key and URL of its rows."""
    layer = _list_layer(store)
    for shard in store.shards(layer):
        yield shard, _records(store, layer, shard, {"key", "url"})


def _list_layer(store: ShardStore) -> Layer:
    return next((layer for layer in LISTS if store.shards(layer)), Layer.URLS)


def _records(store: ShardStore, layer: str, shard: str, columns: Iterable[str]) -> list[Record]:
    with store.open_file(layer, shard) as file:
        records: list[Record] = file.read(columns=sorted(columns)).to_pylist()
        return records


def _remove_corrections(store: ShardStore, keys: Collection[bytes]) -> None:
    """Remove the corrections of these images."""
    for review in store.names(CORRECTIONS):
        corrections = [each.correction for each in read_review(store, review)]
        left = [correction for correction in corrections if correction.key not in keys]
        if len(left) < len(corrections):
            write_corrections(store, review, left)


def _remove_from_audits(store: ShardStore, keys: Collection[bytes]) -> None:
    """Remove these images from the samples of audits, which then speak of the images that are left."""
    for name in audit_names(store):
        images = read_audit(store, name).images
        left = [image for image in images if image.key not in keys]
        if len(left) < len(images):
            Audit(store, name, left).save()


def _remove_from_import(store: ShardStore, urls: UrlSet) -> None:
    """Remove the captions and labels of these images that an import has indexed."""
    if is_local(store.root) and index_path(store.root).exists():
        with SourceIndex.open_to_remove(index_path(store.root)) as index:
            index.remove(urls)


def _done_path(store: ShardStore, name: str) -> UPath:
    return store.root / "work" / REMOVED / f"{name}.done"
