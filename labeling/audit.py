"""Whether the files of a dataset are all there, whole, and made from each other.

`audit` reads names, sizes, footers and a few keys. `check_contents` reads every byte, and takes as long as copying the
dataset.
"""

import hashlib
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial

import pyarrow.parquet as pq
from upath import UPath

from infra.storage import open_binary
from labeling.download.url_list import planned_shards, shard_name
from labeling.errors import ShardCorrupt
from labeling.execution.record import DONE, read_runs
from labeling.sdd.footer import Stamp
from labeling.sdd.membership import foreign_file_message
from labeling.sdd.schema import Layer, State
from labeling.sdd.seal import is_intact
from labeling.sdd.shards import PARENTS, ShardStore, is_shard_name

COMPLETE = (Layer.URLS, Layer.IMAGES, Layer.LEDGER)
"""Layers that have a row for each URL of the list."""
_READERS = 16
_CURE = "put it back from a copy, or move it away and run the build again"


@dataclass(frozen=True, slots=True)
class ShardFile:
    """A file, as its name and its footer have it."""

    layer: str
    shard: str
    path: UPath
    stamp: Stamp
    rows: int
    size: int
    """Bytes on the storage."""
    keys: tuple[bytes, bytes] | None
    """The first and the last of a file that has a row for each URL; None in other layers, and where it has no rows."""

    @property
    def kept(self) -> int:
        """Rows that the next layer has, too."""
        return self.stamp.counts.get(State.KEPT, 0)


@dataclass(frozen=True, slots=True)
class Audit:
    """What was found."""

    store: ShardStore
    files: Mapping[str, Mapping[str, ShardFile]]
    """By layer and shard; those whose footer can be read."""
    problems: tuple[str, ...]
    """What is wrong, one line each: the file, and the cure."""


def audit(root: str) -> Audit:
    """Look at the names, sizes and footers of all files."""
    store = ShardStore(root)
    # Against the order in which a build makes them: of a file that is listed, all that it is made of is listed, too.
    names: dict[str, list[str]] = {
        layer: store.names(layer) for layer in (Layer.SDD, Layer.LEDGER, *reversed(tuple(Layer)[:-2]))
    }
    places = [(layer, name) for layer in Layer for name in names[layer] if is_shard_name(name)]
    with ThreadPoolExecutor(_READERS) as readers:
        looked = [each for each in readers.map(lambda place: _look(store, *place), places) if each is not None]
    files: dict[str, dict[str, ShardFile]] = {layer: {} for layer in Layer}
    for file in looked:
        if isinstance(file, ShardFile):
            files[file.layer][file.shard] = file
    problems = [
        *_by_name(store, names, files),
        *(each for each in looked if isinstance(each, str)),
        *filter(None, (_unfit(file, files) for layer in files.values() for file in layer.values())),
        *_of_other_datasets(store, files),
    ]
    return Audit(store, files, tuple(problems))


def check_contents(found: Audit) -> Iterator[tuple[ShardFile, str | None]]:
    """Read every file; with each, what is wrong with its content.

    Files of earlier versions have no checksum. They are decoded, and their keys and pictures compared with what the
    dataset says of them.
    """
    files = [file for layer in found.files.values() for file in layer.values()]
    readers = ThreadPoolExecutor()
    try:
        yield from zip(files, readers.map(partial(_changed, found), files), strict=True)
    finally:
        readers.shutdown(cancel_futures=True)  # an interrupt waits for the files that are being read, not for all


def _look(store: ShardStore, layer: str, shard: str) -> ShardFile | str | None:
    """The file, what is wrong with it, or None where it has been removed meanwhile."""
    path = store.path(layer, shard)
    try:
        with store.open_file(layer, shard) as file:
            stamp = store.stamp_of(file, layer, shard)
            keys = _keys(file) if layer in COMPLETE else None
            return ShardFile(layer, shard, path, stamp, file.metadata.num_rows, path.stat().st_size, keys)
    except FileNotFoundError:
        return None
    except ShardCorrupt as error:
        return str(error)
    except OSError as error:
        return f"{path} cannot be read ({error}): see to the storage"


def _keys(file: pq.ParquetFile) -> tuple[bytes, bytes] | None:
    """The first and the last key, from the rows: where a footer is damaged, pyarrow aborts the process that asks it for
    a column's statistics.
    """
    if not file.num_row_groups or "key" not in file.schema_arrow.names:
        return None
    groups = (file.read_row_group(group, columns=["key"]) for group in (0, file.num_row_groups - 1))
    keys = [key for group in groups for key in group["key"].to_pylist()]
    return (keys[0], keys[-1]) if keys else None


def _by_name(
    store: ShardStore, names: Mapping[str, list[str]], files: Mapping[str, Mapping[str, ShardFile]]
) -> Iterator[str]:
    """Files that should not be there, and files that should."""
    layers: Iterable[str] = tuple(Layer)
    if any(names[layer] for layer in tuple(Layer)[:-2]):
        own = _own_shards(store, names, files)
    else:  # a copy of the product alone
        layers = [layer for layer in Layer if names[layer]]
        own = {name for layer in layers for name in names[layer] if is_shard_name(name)}
    finished = _finished_shards(store)
    for layer in layers:
        yield from (foreign_file_message(store, layer, name) for name in names[layer] if name not in own)
        for shard in sorted(own - set(names[layer])):
            later = (other for other in _after(layer) if shard in names[other])
            why = next((f"{other}/ has it" for other in later), "a run had finished it" if shard in finished else None)
            if why:
                yield f"{store.path(layer, shard)} is missing, though {why}: put it back, or run the build again"


def _after(layer: str) -> tuple[str, ...]:
    """The layers whose files are written after that of `layer`; sdd/ for ledger/, as a build writes both at once."""
    return tuple(Layer)[tuple(Layer).index(layer) + 1 :] or (Layer.SDD,)


def _own_shards(
    store: ShardStore, names: Mapping[str, list[str]], files: Mapping[str, Mapping[str, ShardFile]]
) -> set[str]:
    """The shards of the list, even where urls/ has lost them."""
    dataset = store.dataset()
    alike = {shard for layer in files.values() for shard, file in layer.items() if file.stamp.dataset == dataset}
    listed = {name for name in names[Layer.URLS] if is_shard_name(name)}
    return listed | set(planned_shards(store)) | (alike if dataset is not None else set())


def _finished_shards(store: ShardStore) -> set[str]:
    """The shards all of whose files were there when a run ended."""
    counts = [run.get("shards", 0) for run in read_runs(store.root) if run["state"] == DONE]
    return set(map(shard_name, range(max(counts, default=0))))


def _unfit(file: ShardFile, files: Mapping[str, Mapping[str, ShardFile]]) -> str | None:
    """How a file contradicts itself, or those that it was made from."""
    shards = {layer: found[file.shard] for layer, found in files.items() if file.shard in found}
    parent, ledger, listed = shards.get(PARENTS.get(file.layer, "")), shards.get(Layer.LEDGER), shards.get(Layer.URLS)
    counted = sum(file.stamp.counts.values())
    if file.stamp.size not in (None, file.size):
        return f"{file.path} has {file.size} bytes, but was written with {file.stamp.size}: {_CURE}"
    if counted != file.rows:
        return f"{file.path} has {file.rows} rows, but its footer counts {counted}: {_CURE}"
    if parent and file.stamp.parent not in (None, parent.stamp.stamp):
        return (
            f"{file.path} was made from {parent.layer}/ stamped {file.stamp.parent}, which now is "
            f"{parent.stamp.stamp}: run the build again, or put back the file that it was made from"
        )
    if file.layer == Layer.SDD and ledger and ledger.stamp.stamp != file.stamp.stamp:
        return f"{file.path} is stamped {file.stamp.stamp}, but ledger/ of the same shard {ledger.stamp.stamp}: {_CURE}"
    made_of = listed if file.layer in COMPLETE else ledger if file.layer == Layer.SDD else parent
    if made_of and file.rows != (expected := made_of.rows if made_of is listed else made_of.kept):
        return f"{file.path} has {file.rows} rows, but {made_of.layer}/ has {expected} for it: {_CURE}"
    if made_of is listed and listed and file.keys != listed.keys:
        return f"{file.path} has other keys than {Layer.URLS}/: {_CURE}"
    return None


def _of_other_datasets(store: ShardStore, files: Mapping[str, Mapping[str, ShardFile]]) -> Iterator[str]:
    dataset = store.dataset()
    for layer in files.values():
        for file in layer.values():
            if dataset and file.stamp.dataset not in (None, dataset):
                yield f"{file.path} is of the dataset {file.stamp.dataset}, this one is {dataset}: {_CURE}"


def _changed(found: Audit, file: ShardFile) -> str | None:
    """What is wrong with the content of a file."""
    try:
        if file.stamp.size is None:
            return _unlike_others(found, file)
        with open_binary(file.path) as content:
            return None if is_intact(content) else f"{file.path} has changed since it was written (SHA-256): {_CURE}"
    except ShardCorrupt as error:
        return str(error)
    except OSError as error:
        return f"{file.path} cannot be read ({error}): see to the storage"


def _unlike_others(found: Audit, file: ShardFile) -> str | None:
    """What is wrong with a file that has no checksum, as far as others tell."""
    keys = []
    with found.store.open_file(file.layer, file.shard) as shard:
        for group in range(shard.num_row_groups):
            for row in shard.read_row_group(group).to_pylist():
                keys.append(row["key"])
                if row.get("image") and hashlib.sha256(row["image"]).digest() != row["sha256"]:
                    return f"{file.path} has another picture of {row['key'].hex()} than was downloaded: {_CURE}"
    expected = _keys_for(found, file)
    return f"{file.path} has other keys than it should: {_CURE}" if expected not in (None, keys) else None


def _keys_for(found: Audit, file: ShardFile) -> list[bytes] | None:
    """The keys that a file should have; None where nothing says it."""
    layer = Layer.URLS if file.layer in COMPLETE else Layer.LEDGER if file.layer == Layer.SDD else PARENTS[file.layer]
    if file.layer == Layer.URLS or file.shard not in found.files[layer]:
        return None
    with found.store.open_file(layer, file.shard) as shard:
        judged = "state" in shard.schema_arrow.names
        rows = shard.read(columns=["key", "state"] if judged else ["key"]).to_pylist()
    return [row["key"] for row in rows if row.get("state", State.KEPT) == State.KEPT]
