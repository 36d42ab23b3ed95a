"""Spool of a shard: the bodies that its servers sent, as files on this machine until the shard is made.

The files stay when the process that fetched the bodies ends, so the next process does not fetch them again. A file's
name holds the digest of its content, which reveals a body that a power cut left incomplete.
"""

import contextlib
import hashlib
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Self

from upath import UPath

from infra.lock import file_lock
from infra.storage import is_local, make_private, storage_path
from labeling.errors import LabelingError, StageFailed
from labeling.sdd.lock import shard_lock
from labeling.sdd.schema import Layer

BIG_IMAGE_TIMEOUT_S = 24 * 3600.0
"""Seconds to wait for other processes that decode big images."""


class Spool:
    """Bodies of one shard."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._paths = {bytes.fromhex(path.name.split("-")[0]): path for path in folder.glob("*-*")}

    @classmethod
    @contextlib.contextmanager
    def open(cls, root: UPath, shard: str, stamp: str) -> Iterator[Self]:
        """Open the shard's spool, with the bodies that an earlier process fetched under the same stamp.

        The spool is removed at the end of the block, unless the block raises. It is in the dataset's folder, or in a
        folder for temporary files if the dataset is on an object store. The caller holds the shard's lock; as object
        stores have no locks, their spools have one of their own for the processes of this machine.
        """
        local_root = root if is_local(root) else storage_path(_folder_for_remote(root))
        with contextlib.nullcontext() if local_root is root else shard_lock(local_root, Layer.IMAGES, shard):
            folder = _spool_folder(local_root, shard) / stamp
            for other in folder.parent.glob("*"):
                if other != folder:
                    shutil.rmtree(other)
            folder.mkdir(parents=True, exist_ok=True)
            yield cls(folder)
            shutil.rmtree(folder.parent)

    def put(self, key: bytes, encoded: bytes) -> Path:
        """Write a body; return its file."""
        path = self._folder / f"{key.hex()}-{_digest(encoded)}"
        unfinished = self._folder / f".{key.hex()}.tmp"
        unfinished.write_bytes(encoded)
        self._paths[key] = unfinished.rename(path)
        return path

    def find(self, key: bytes) -> Path | None:
        """Return the file of a body; None if it is missing or incomplete."""
        path = self._paths.get(key)
        if path is None or _digest(path.read_bytes()) != path.name.split("-")[1]:
            return None
        return path

    def get(self, key: bytes) -> bytes:
        """Read a body."""
        return self._paths[key].read_bytes()

    @contextlib.contextmanager
    def big_image_lock(self) -> Iterator[None]:
        """Hold the lock for the memory of big images, which one process at a time may use.

        Raises:
            LabelingError: others hold it for longer than `BIG_IMAGE_TIMEOUT_S`.
        """
        path = self._folder.parents[1] / "big-images.lock"
        timeout = LabelingError(f"{path} is held by another build for a day: end that build")
        with file_lock(path, BIG_IMAGE_TIMEOUT_S, timeout):
            yield


def remove_spool(root: UPath, shard: str) -> None:
    """Remove the spool of a shard that is made. The caller holds the shard's lock."""
    if is_local(root):
        shutil.rmtree(_spool_folder(root, shard), ignore_errors=True)


def has_spool(root: UPath, shard: str) -> bool:
    """Return whether the dataset's folder has a spool of the shard, of a process that was killed or still runs."""
    return is_local(root) and _spool_folder(root, shard).exists()


def _spool_folder(local_root: UPath, shard: str) -> Path:
    return Path(local_root.path) / "work" / Layer.IMAGES / f"{shard}.spool"


def _digest(encoded: bytes) -> str:
    return hashlib.sha256(encoded).hexdigest()[:16]


def _folder_for_remote(root: UPath) -> Path:
    """Return the local folder for the spools of a dataset on an object store.

    It is the same for every process of a user, so that they see each other's locks and remove the spools of killed
    processes.

    Raises:
        StageFailed: a file or a folder of another user has its name.
    """
    name = hashlib.sha256(str(root).encode()).hexdigest()[:12]
    folder = Path(tempfile.gettempdir()) / f"subject-diffusion-{os.getuid()}-{name}"
    try:
        make_private(folder)
    except PermissionError as error:
        raise StageFailed(f"{error}: remove it, or set TMPDIR to a folder of your own") from error
    return folder
