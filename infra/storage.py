"""One path type for local folders and object stores, and files that appear whole or not at all.

`storage_path("out/sdd")` and `storage_path("s3://bucket/sdd")` give the same kind of object (universal_pathlib over
fsspec; credentials and endpoint of S3 come from the usual AWS_* variables).
"""

import os
import stat
import tempfile
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

import fsspec
from upath import UPath

from infra.config import SettingsError

_CURE = "give another folder, or access to this one (S3: the AWS_* variables)"


def storage_path(url: str | os.PathLike[str]) -> UPath:
    """The file or folder that `url` names; a path without a scheme is local and becomes absolute, `~` the home folder.

    Raises:
        SettingsError: there is no such kind of storage, or its package is not installed.
    """
    try:
        path = UPath(url)
        fsspec.get_filesystem_class(path.protocol)
    except (ValueError, ImportError) as error:
        raise SettingsError(f"{url}: {error}; give a local path or an fsspec URL such as s3://bucket/sdd") from error
    # Listings are not remembered: other processes write here too.
    return UPath(path.expanduser().absolute()) if is_local(path) else UPath(path, use_listings_cache=False)


def is_local(path: UPath) -> bool:
    """Whether the path is on this machine's file systems."""
    return path.protocol in ("", "file", "local")


def refuse_unreadable(folder: UPath, name: str) -> None:
    """Ask the storage for `folder` once, so that one that does not answer is named before any work.

    Args:
        name: of the folder's setting, for the message.

    Raises:
        SettingsError: the storage cannot be asked; the folder itself may be absent.
    """
    try:
        folder.exists()
    except Exception as error:  # each storage's client raises errors of its own
        raise SettingsError(f"{name} {folder} cannot be read ({_reason(error)}): {_CURE}") from error


def refuse_unwritable(folder: UPath, name: str) -> None:
    """Write an empty file in `folder`, which is made where it is not there, and remove it again.

    Args:
        name: of the folder's setting, for the message.

    Raises:
        SettingsError: nothing can be written there.
    """
    file = folder / f".{uuid.uuid4().hex[:8]}.tmp"
    try:
        publish(file, lambda _: None, replace=True)
        file.unlink()
    except Exception as error:  # each storage's client raises errors of its own
        raise SettingsError(f"{name} {folder} cannot be written ({_reason(error)}): {_CURE}") from error


def publish(path: UPath, write: Callable[[IO[bytes]], None], *, replace: bool) -> None:
    """Make the file `path` with what `write` writes; a reader sees the whole file or none.

    Local: written beside its place, fsynced, then linked or renamed. Object store: one PUT, on the condition
    that the object is not there unless `replace`.

    Raises:
        FileExistsError: the file is there and `replace` is false.
    """
    if is_local(path):
        _publish_local(Path(path.path), write, replace)
    else:
        with tempfile.NamedTemporaryFile() as spool:
            write(spool)
            spool.flush()
            _put(path, spool.name, replace)


def publish_bytes(path: UPath, content: bytes) -> None:
    """Write a small file whole, as `publish` does, in place of the one that may be there."""

    def write(file: IO[bytes]) -> None:
        file.write(content)

    publish(path, write, replace=True)


def sweep(path: UPath) -> None:
    """Remove what killed writers of `path` left beside it. Only the holder of its lock may call this."""
    if is_local(path):
        for leftover in Path(path.path).parent.glob(f".{path.name}.*.tmp"):
            leftover.unlink(missing_ok=True)


@contextmanager
def open_binary(path: UPath) -> Iterator[IO[bytes]]:
    """The file opened for random access; what is read of an object is what is asked for, not megabytes around it.

    Raises:
        FileNotFoundError: there is no such file.
    """
    with path.open("rb") if is_local(path) else path.fs.open(path.path, "rb", cache_type="none") as file:
        yield file


def contents(path: UPath) -> bytes:
    """The whole of a small file in one request, so that it is of one moment even while others replace it.

    Raises:
        FileNotFoundError: there is no such file.
    """
    whole: bytes = path.fs.cat_file(path.path)
    return whole


def make_private(folder: Path) -> None:
    """Make `folder`, which nobody but this user may enter, unless it is there; for places that others can guess.

    Raises:
        PermissionError: a link, a file or another user's folder stands in its place.
    """
    with suppress(FileExistsError):
        folder.mkdir(mode=0o700)
    found = folder.lstat()
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid():
        raise PermissionError(f"{folder} is not a folder of this user")
    folder.chmod(0o700)  # an earlier version let others read it


def _publish_local(path: Path, write: Callable[[IO[bytes]], None], replace: bool) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}.tmp")
    try:
        with unfinished.open("w+b") as file:
            write(file)
            file.flush()
            os.fsync(file.fileno())
        if replace:
            unfinished.replace(path)
        else:
            os.link(unfinished, path)  # unlike rename, fails where a file is
        fsync_folder(path.parent)
    finally:
        unfinished.unlink(missing_ok=True)


def fsync_folder(folder: Path) -> None:
    """Have the names in `folder` on disk: a file that was moved there is there after a loss of power."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _reason(error: Exception) -> str:
    """What a storage's client says, in one line."""
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return f"{type(error).__name__}: {' '.join(str(error).split())}"


def _put(path: UPath, spooled: str, replace: bool) -> None:
    try:
        path.fs.put_file(spooled, path.path, mode="overwrite" if replace else "create")
    except FileExistsError:
        raise
    except OSError as error:  # stores that refuse the condition in other words than Amazon's
        if replace or not path.exists():
            raise
        raise FileExistsError(f"{path} is there already") from error
