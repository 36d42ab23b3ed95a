"""The audit of a dataset: all files exist, are whole, and were made from each other.

`audit` reads names, sizes, footers and a few keys. `check_contents` reads every byte, and takes as long as copying the
dataset.
"""

import hashlib
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial

import pyarrow.parquet as pq
from upath import UPath

from infra.collection import without_collection
from infra.storage import open_binary
from labeling.download.lists.names import shard_name
from labeling.download.lists.url_list import planned_shards
from labeling.errors import ShardCorrupt
from labeling.execution.record import DONE, read_runs
from labeling.sdd.file_index import Contents
from labeling.sdd.footer import Stamp
from labeling.sdd.layers import FOLDERS, OPTIONAL
from labeling.sdd.membership import foreign_file_message
from labeling.sdd.query import FunnelRow
from labeling.sdd.schema import Layer, State
from labeling.sdd.seal import is_intact
from labeling.sdd.shards import PARENTS, ShardStore, is_shard_name

VERDICT = ("state", "stage", "reason")
"""Columns of a verdict in ledger/."""
COMPLETE = (Layer.URLS, Layer.IMAGES, Layer.LEDGER)
"""Layers with a row for each URL of the list."""
_MADE_FIRST = tuple(Layer)[:-2]
"""Layers from urls/ to entities/, in the order of a build."""
_READERS = 16
_CURE = "put it back from a copy, or move it away and run the build again"


@dataclass(frozen=True, slots=True)
class ShardFile:
    """A file, described by its name and footer."""

    root: UPath
    layer: str
    shard: str
    stamp: Stamp
    size: int
    """Size on the storage, in bytes."""
    contents: Contents

    @property
    def path(self) -> UPath:
        """Path of the file."""
        return self.root / self.layer / f"{self.shard}.parquet"

    @property
    def rows(self) -> int:
        """Number of rows."""
        return self.contents.rows

    @property
    def keys(self) -> tuple[str | None, str | None]:
        """First and last key (hex), for the layers of `COMPLETE`; None in other layers, and in files without rows."""
        return self.contents.first_key, self.contents.last_key

    @property
    def kept(self) -> int:
        """Number of kept rows, which the next layer has too."""
        return self.stamp.counts.get(State.KEPT, 0)


@dataclass(frozen=True, slots=True)
class Audit:
    """Result of an audit."""

    store: ShardStore
    files: Mapping[str, Mapping[str, ShardFile]]
    """Files with a readable footer, by layer or optional folder, and shard."""
    problems: tuple[str, ...]
    """Problems, one line each, with the file and the cure."""

    def funnel(self) -> list[FunnelRow]:
        """Return the rows of `labeling.sdd.query.funnel`."""
        counts: Counter[str] = Counter()
        for file in self.files[Layer.LEDGER].values():
            counts.update(file.contents.verdicts)
        total = sum(counts.values())
        rows: list[FunnelRow] = []
        for verdict, urls in counts.items():
            state, stage, reason = verdict.split("\t")
            rows.append((state, stage, reason, urls, round(urls / total, 4)))
        stages = tuple(Layer)
        return sorted(rows, key=lambda row: (stages.index(Layer(row[1])), -row[3], row[2]))


def audit(root: str) -> Audit:
    """Check the names, sizes and footers of all files. Opens only those that the dataset's index does not know."""
    with without_collection():
        return _audit(ShardStore(root))


def _audit(store: ShardStore) -> Audit:
    store.index.load()
    # Reverse order of a build, so that the inputs of a listed file exist when their layer is listed.
    names: dict[str, list[str]] = {
        layer: store.names(layer)
        for layer in (*reversed(tuple(OPTIONAL)), Layer.SDD, Layer.LEDGER, *reversed(_MADE_FIRST))
    }
    places = [(layer, name) for layer in FOLDERS for name in names[layer] if is_shard_name(name)]
    known = [_known_file(store, *place) for place in places]
    unknown = [place for place, file in zip(places, known, strict=True) if file is None]
    with ThreadPoolExecutor(_READERS) as readers:
        read = readers.map(lambda place: _inspect(store, *place), unknown)
        results = [each for each in (file or next(read) for file in known) if each is not None]
    store.index.save()
    files: dict[str, dict[str, ShardFile]] = {layer: {} for layer in FOLDERS}
    for file in results:
        if isinstance(file, ShardFile):
            files[file.layer][file.shard] = file
    problems = [
        *_name_problems(store, names, files),
        *(each for each in results if isinstance(each, str)),
        *filter(None, (_contradiction(file, files) for layer in files.values() for file in layer.values())),
        *_foreign_datasets(store, files),
    ]
    return Audit(store, files, tuple(problems))


def check_contents(result: Audit) -> Iterator[tuple[ShardFile, str | None]]:
    """Read every file, and yield it with the problem of its content; None for an intact file.

    Files of earlier versions have no checksum. They are decoded, and their keys and pictures compared with those of
    other layers.
    """
    files = [file for layer in result.files.values() for file in layer.values()]
    readers = ThreadPoolExecutor()
    try:
        yield from zip(files, readers.map(partial(_content_problem, result), files), strict=True)
    finally:
        readers.shutdown(cancel_futures=True)  # an interrupt waits for the files being read, not for all files


def _known_file(store: ShardStore, layer: str, shard: str) -> ShardFile | None:
    """Return a file whose contents the index knows; None for another."""
    identity = store.index.identity(layer, shard)
    file = store.index.find(layer, shard, identity)
    if file is None or file.contents is None:
        return None
    return ShardFile(store.root, layer, shard, file.stamp, file.identity[1], file.contents)


def _inspect(store: ShardStore, layer: str, shard: str) -> ShardFile | str | None:
    """Open a file and return it, or its problem; None if the file was removed after the listing."""
    path = store.path(layer, shard)
    try:
        identity = store.index.identity(layer, shard)
        with store.open_file(layer, shard) as file:
            stamp = store.stamp_of(file, layer, shard)
            first, last = _keys(file) if layer in COMPLETE else (None, None)
            size = path.stat().st_size
            is_whole = stamp.size in (None, size)
            verdicts = _count_verdicts(file) if layer == Layer.LEDGER and is_whole else {}
            contents = Contents(file.metadata.num_rows, first, last, verdicts)
        store.index.add(layer, shard, identity, stamp, contents)
        return ShardFile(store.root, layer, shard, stamp, size, contents)
    except FileNotFoundError:
        return None
    except ShardCorrupt as error:
        return str(error)
    except OSError as error:
        return f"{path} cannot be read ({error}): check the storage"


def _count_verdicts(file: pq.ParquetFile) -> dict[str, int]:
    """Return the rows of a file of ledger/ by verdict, as in `Contents.verdicts`."""
    counts = file.read(columns=list(VERDICT)).group_by(list(VERDICT)).aggregate([([], "count_all")]).to_pylist()
    return {"\t".join(row[name] or "" for name in VERDICT): row["count_all"] for row in counts}


def _keys(file: pq.ParquetFile) -> tuple[str | None, str | None]:
    """Return the first and the last key (hex), from the rows.

    The column's statistics hold them too, but pyarrow aborts the process if they are damaged.
    """
    if not file.num_row_groups or "key" not in file.schema_arrow.names:
        return None, None
    groups = (file.read_row_group(group, columns=["key"]) for group in (0, file.num_row_groups - 1))
    keys = [key for group in groups for key in group["key"].to_pylist()]
    return (keys[0].hex(), keys[-1].hex()) if keys else (None, None)


def _name_problems(
    store: ShardStore, names: Mapping[str, list[str]], files: Mapping[str, Mapping[str, ShardFile]]
) -> Iterator[str]:
    """Yield the problems with extra and missing files."""
    layers: Iterable[str] = tuple(Layer)
    if any(names[layer] for layer in _MADE_FIRST):
        own = _own_shards(store, names, files)
    else:  # a copy of sdd/ and perhaps ledger/ alone
        layers = [layer for layer in Layer if names[layer]]
        own = {name for layer in layers for name in names[layer] if is_shard_name(name)}
    finished = _finished_shards(store)
    for layer in (*layers, *OPTIONAL):
        yield from (foreign_file_message(store, layer, name) for name in names[layer] if name not in own)
    for layer in layers:
        for shard in sorted(own - set(names[layer])):
            later = (other for other in _after(layer) if shard in names[other])
            why = next((f"{other}/ has it" for other in later), "a run finished it" if shard in finished else None)
            if why:
                yield f"{store.path(layer, shard)} is missing, though {why}: put it back, or run the build again"


def _after(layer: str) -> tuple[str, ...]:
    """Return the folders made from `layer` or a later one; sdd/ for ledger/, as a build writes both together."""
    layers = tuple(Layer)
    later = layers[layers.index(layer) + 1 :] or (Layer.SDD,)
    return *later, *(each for each in OPTIONAL if each in PARENTS and PARENTS[each] in (layer, *later))


def _own_shards(
    store: ShardStore, names: Mapping[str, list[str]], files: Mapping[str, Mapping[str, ShardFile]]
) -> set[str]:
    """Return the shards of the list, including those whose file in urls/ is missing."""
    dataset = store.dataset()
    same_dataset = {shard for layer in files.values() for shard, file in layer.items() if file.stamp.dataset == dataset}
    listed = {name for name in names[Layer.URLS] if is_shard_name(name)}
    return listed | set(planned_shards(store)) | (same_dataset if dataset is not None else set())


def _finished_shards(store: ShardStore) -> set[str]:
    """Return the shards that a run has finished."""
    counts = [run.get("shards", 0) for run in read_runs(store.root) if run["state"] == DONE]
    return set(map(shard_name, range(max(counts, default=0))))


def _contradiction(file: ShardFile, files: Mapping[str, Mapping[str, ShardFile]]) -> str | None:
    """Return how a file contradicts itself or the files that it was made from; None if it does not."""
    ledger, listed = files[Layer.LEDGER].get(file.shard), files[Layer.URLS].get(file.shard)
    parent = files[PARENTS[file.layer]].get(file.shard) if file.layer in PARENTS else None
    counted = sum(file.stamp.counts.values())
    if file.stamp.size not in (None, file.size):
        return f"{file.path} has {file.size} bytes, but was written with {file.stamp.size}: {_CURE}"
    if counted != file.rows:
        return f"{file.path} has {file.rows} rows, but its footer counts {counted}: {_CURE}"
    if parent and file.stamp.parent not in (None, parent.stamp.stamp):
        cure = "move it away" if file.layer in OPTIONAL else "put back the file that it was made from"
        made_from = f"was made from {parent.layer}/ stamped {file.stamp.parent}, which now is {parent.stamp.stamp}"
        return f"{file.path} {made_from}: run the build again, or {cure}"
    if file.layer == Layer.SDD and ledger and ledger.stamp.stamp != file.stamp.stamp:
        return f"{file.path} is stamped {file.stamp.stamp}, but ledger/ of the same shard {ledger.stamp.stamp}: {_CURE}"
    made_of = listed if file.layer in COMPLETE else ledger if file.layer == Layer.SDD else parent
    if made_of and file.rows != (expected := made_of.rows if made_of is listed else made_of.kept):
        return f"{file.path} has {file.rows} rows, but {made_of.layer}/ has {expected} for it: {_CURE}"
    if made_of is listed and listed and file.keys != listed.keys:
        return f"{file.path} has other keys than {Layer.URLS}/: {_CURE}"
    return None


def _foreign_datasets(store: ShardStore, files: Mapping[str, Mapping[str, ShardFile]]) -> Iterator[str]:
    dataset = store.dataset()
    for layer in files.values():
        for file in layer.values():
            if dataset and file.stamp.dataset not in (None, dataset):
                yield f"{file.path} is of the dataset {file.stamp.dataset}, this one is {dataset}: {_CURE}"


def _content_problem(result: Audit, file: ShardFile) -> str | None:
    """Return the problem of a file's content; None if it is intact."""
    try:
        if file.stamp.size is None:
            return _mismatch_with_others(result, file)
        with open_binary(file.path) as content:
            return None if is_intact(content) else f"{file.path} has changed since it was written (SHA-256): {_CURE}"
    except ShardCorrupt as error:
        return str(error)
    except OSError as error:
        return f"{file.path} cannot be read ({error}): check the storage"


def _mismatch_with_others(result: Audit, file: ShardFile) -> str | None:
    """Return how a file without a checksum differs from other layers; None if it does not."""
    keys = []
    with result.store.open_file(file.layer, file.shard) as shard:
        for group in range(shard.num_row_groups):
            for row in shard.read_row_group(group).to_pylist():
                keys.append(row["key"])
                if row.get("image") and hashlib.sha256(row["image"]).digest() != row["sha256"]:
                    return f"{file.path} holds a picture of {row['key'].hex()} that differs from the download: {_CURE}"
    expected = _expected_keys(result, file)
    return f"{file.path} has other keys than it should: {_CURE}" if expected not in (None, keys) else None


def _expected_keys(result: Audit, file: ShardFile) -> list[bytes] | None:
    """Return the keys that a file should have; None if no other file determines them."""
    own_parent = PARENTS.get(file.layer)
    layer = Layer.URLS if file.layer in COMPLETE else Layer.LEDGER if file.layer == Layer.SDD else own_parent
    if layer is None or file.layer == Layer.URLS or file.shard not in result.files[layer]:
        return None
    with result.store.open_file(layer, file.shard) as shard:
        judged = "state" in shard.schema_arrow.names
        rows = shard.read(columns=["key", "state"] if judged else ["key"]).to_pylist()
    return [row["key"] for row in rows if row.get("state", State.KEPT) == State.KEPT]
