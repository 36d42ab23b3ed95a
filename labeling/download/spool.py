"""The bodies that a shard's servers sent, as files on this machine until the shard is made.

They stay when the process that fetched them ends, so the next one to make the shard does not fetch them again. The
name of a file holds the digest of its content, by which a body is recognised that a power cut tore.
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

BIG_PATIENCE_S = 24 * 3600.0
"""Wait for the other processes that look at big images."""


class Spool:
    """The bodies of one shard."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._paths = {bytes.fromhex(path.name.split("-")[0]): path for path in folder.glob("*-*")}

    @classmethod
    @contextlib.contextmanager
    def opened(cls, root: UPath, shard: str, stamp: str) -> Iterator[Self]:
        """The shard's spool, with the bodies that an earlier process fetched under the same stamp.

        It is removed at the end of the block, unless that raises. It lies in the dataset's folder, or in that for
        temporary files where the dataset is far away. The caller holds the shard's lock. Far away there is none, but
        here the spool has one: processes of this machine that make the same shard take turns.
        """
        near = root if is_local(root) else storage_path(_far_spools(root))
        with contextlib.nullcontext() if near is root else shard_lock(near, Layer.IMAGES, shard):
            folder = _folder(near, shard) / stamp
            for other in folder.parent.glob("*"):
                if other != folder:
                    shutil.rmtree(other)
            folder.mkdir(parents=True, exist_ok=True)
            yield cls(folder)
            shutil.rmtree(folder.parent)

    def put(self, key: bytes, encoded: bytes) -> Path:
        """Keep a body; returns its file."""
        path = self._folder / f"{key.hex()}-{_digest(encoded)}"
        unfinished = self._folder / f".{key.hex()}.tmp"
        unfinished.write_bytes(encoded)
        self._paths[key] = unfinished.rename(path)
        return path

    def find(self, key: bytes) -> Path | None:
        """The file of a body, if it is there and whole."""
        path = self._paths.get(key)
        if path is None or _digest(path.read_bytes()) != path.name.split("-")[1]:
            return None
        return path

    def get(self, key: bytes) -> bytes:
        """The body."""
        return self._paths[key].read_bytes()

    @contextlib.contextmanager
    def big_images(self) -> Iterator[None]:
        """Hold what only one process at a time may: the memory for big images.

        Raises:
            LabelingError: others hold it for longer than `BIG_PATIENCE_S`.
        """
        path = self._folder.parents[1] / "big-images.lock"
        with file_lock(path, BIG_PATIENCE_S, LabelingError(f"{path} is held by another build for a day: end that")):
            yield


def remove_spool(root: UPath, shard: str) -> None:
    """Remove the spool of a shard that is made. The caller holds the shard's lock."""
    if is_local(root):
        shutil.rmtree(_folder(root, shard), ignore_errors=True)


def has_spool(root: UPath, shard: str) -> bool:
    """Whether the dataset's folder holds a spool of the shard: its process was killed, or still works."""
    return is_local(root) and _folder(root, shard).exists()


def _folder(near: UPath, shard: str) -> Path:
    return Path(near.path) / "work" / Layer.IMAGES / f"{shard}.spool"


def _digest(encoded: bytes) -> str:
    return hashlib.sha256(encoded).hexdigest()[:16]


def _far_spools(root: UPath) -> Path:
    """The folder on this machine for the spools of a dataset that is far away: the same for every process of a user,
    so that they see each other's locks and remove what a killed one left.

    Raises:
        StageFailed: another user has made something of its name.
    """
    name = hashlib.sha256(str(root).encode()).hexdigest()[:12]
    folder = Path(tempfile.gettempdir()) / f"subject-diffusion-{os.getuid()}-{name}"
    try:
        make_private(folder)
    except PermissionError as error:
        raise StageFailed(f"{error}: remove it, or set TMPDIR to a folder that is yours alone") from error
    return folder
