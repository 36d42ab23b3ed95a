"""Index of a dataset's files: what their footers hold, so that a file is opened again only after it has changed.

A file is known by its inode, its size and the times of its last changes: every rewrite, swap or truncation changes one
of them. The index is in memory, and in work/index/LAYER.json for the next process; its loss costs time alone. Object
stores have no index.
"""

import functools
import logging
import os
import time
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple, TypeAlias

from pydantic import TypeAdapter, ValidationError
from upath import UPath

from infra.storage import is_local, publish_bytes, storage_path
from labeling.sdd.footer import Stamp
from labeling.sdd.layers import FOLDERS

log = logging.getLogger(__name__)
SETTLED_S = 0.1
"""Age in seconds from which a file is indexed: a younger one may change once more within one tick of the clock."""


Identity: TypeAlias = tuple[int, int, int, int]
"""State of a file in its folder: inode, size in bytes, and times in ns of the last change of its content, and of its
content, name or access rights."""


class Contents(NamedTuple):
    """Facts about a file that the audit reads beside the footer."""

    rows: int
    first_key: str | None
    """First key (hex) in the layers with a row for each URL."""
    last_key: str | None
    """Last key (hex) of the same."""
    verdicts: dict[str, int]
    """Rows of ledger/ by state, stage and reason, joined by tabs; empty in other layers."""


class IndexedFile(NamedTuple):
    """A file of the index."""

    identity: Identity
    stamp: Stamp
    contents: Contents | None
    """None until an audit has read them."""


_FILES = TypeAdapter(dict[str, IndexedFile])


class FileIndex:
    """Index of one dataset. Safe to use from many threads."""

    def __init__(self, root: UPath) -> None:
        self._root = root
        self._folder = root.path if is_local(root) else None
        self._files: dict[str, dict[str, IndexedFile]] = {layer: {} for layer in FOLDERS}
        self._changed: set[str] = set()
        self._loaded: set[str] = set()

    def identity(self, layer: str, shard: str) -> Identity | None:
        """Return the identity of a file; None where there is none, or no index."""
        if self._folder is None or layer not in self._files:
            return None
        try:
            status = os.stat(f"{self._folder}/{layer}/{shard}.parquet")
        except OSError:
            return None
        return status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns

    def names(self, layer: str) -> list[str]:
        """Return the names of a layer's Parquet files without their suffix, in any order."""
        folder = self._root / layer
        if self._folder is None:
            return [path.stem for path in folder.glob("*.parquet")] if folder.exists() else []
        try:
            return [name.removesuffix(".parquet") for name in os.listdir(folder.path) if name.endswith(".parquet")]
        except (FileNotFoundError, NotADirectoryError):
            return []

    def find(self, layer: str, shard: str, identity: Identity | None) -> IndexedFile | None:
        """Return what is known of the file with this identity."""
        known = self._files[layer].get(shard) if identity is not None else None
        return known if known is not None and known.identity == identity else None

    def add(
        self, layer: str, shard: str, identity: Identity | None, stamp: Stamp, contents: Contents | None = None
    ) -> None:
        """Add a file whose identity was taken before it was opened."""
        if identity is None or time.time_ns() - max(identity[2:]) < SETTLED_S * 1e9:
            return
        self._files[layer][shard] = IndexedFile(identity, stamp, contents)
        self._changed.add(layer)

    def load(self) -> None:
        """Read the index that a process saved, unless this object has read it."""
        for layer in set(self._files) - self._loaded if self._folder is not None else ():
            self._loaded.add(layer)
            self._files[layer] = self._read(layer) | self._files[layer]

    def save(self) -> None:
        """Write what has changed. A dataset that this process may not write to keeps its former index."""
        for layer in sorted(self._changed):
            self._changed.discard(layer)
            with suppress(OSError):
                publish_bytes(self._path(layer), _FILES.dump_json(self._files[layer]))

    def _read(self, layer: str) -> dict[str, IndexedFile]:
        try:
            return _FILES.validate_json(Path(self._path(layer).path).read_bytes())
        except OSError:
            return {}
        except ValidationError:
            log.warning("%s is unreadable: its files are opened again", self._path(layer))
            return {}

    def _path(self, layer: str) -> UPath:
        return self._root / "work" / "index" / f"{layer}.json"


@functools.lru_cache(maxsize=8)
def index_of(root: str) -> FileIndex:
    """Return the index that all parts of this process share for a dataset."""
    return FileIndex(storage_path(root))
