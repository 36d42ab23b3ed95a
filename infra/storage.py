"""Paths of local folders and object stores, and atomic writing of files.

`storage_path("out/sdd")` and `storage_path("s3://bucket/sdd")` return the same type (universal_pathlib over fsspec;
credentials and endpoint of S3 come from the usual AWS_* variables).
"""

import os
import stat
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

import fsspec
from upath import UPath

from infra.config import SettingsError
from infra.temporary import temporary_folder

_CURE = "give another folder, or access to this one (S3: the AWS_* variables)"


def storage_path(url: str | os.PathLike[str]) -> UPath:
    """Return the path that `url` names. A path without a scheme is local and becomes absolute, with `~` expanded.

    Raises:
        SettingsError: the kind of storage is unknown, or its package is not installed.
    """
    try:
        path = UPath(url)
        fsspec.get_filesystem_class(path.protocol)
    except (ValueError, ImportError) as error:
        raise SettingsError(f"{url}: {error}; give a local path or an fsspec URL such as s3://bucket/sdd") from error
    # No cache of listings, as other processes write here too.
    return UPath(path.expanduser().absolute()) if is_local(path) else UPath(path, use_listings_cache=False)


def is_local(path: UPath) -> bool:
    """Return whether the path is on a file system of this machine."""
    return path.protocol in ("", "file", "local")


def refuse_unreadable(folder: UPath, name: str) -> None:
    """Check that the storage of `folder` is reachable. The folder may be missing.

    Args:
        folder: folder to read.
        name: name of the folder's setting, for the message.

    Raises:
        SettingsError: the storage cannot be reached.
    """
    try:
        folder.exists()
    except Exception as error:  # the client of each storage raises its own errors
        raise SettingsError(f"{name} {folder} cannot be read ({_reason(error)}): {_CURE}") from error


def refuse_unwritable(folder: UPath, name: str) -> None:
    """Check that `folder`, which is created if missing, is writable: write an empty file and remove it.

    Args:
        folder: folder to write to.
        name: name of the folder's setting, for the message.

    Raises:
        SettingsError: the folder is not writable.
    """
    file = folder / f".{uuid.uuid4().hex[:8]}.tmp"
    try:
        publish(file, lambda _: None, replace=True)
        file.unlink()
    except Exception as error:  # the client of each storage raises its own errors
        raise SettingsError(f"{name} {folder} cannot be written ({_reason(error)}): {_CURE}") from error


def publish(path: UPath, write: Callable[[IO[bytes]], None], *, replace: bool) -> None:
    """Write a file atomically: a reader sees the whole file or none.

    Local files are written under a temporary name, fsynced, then linked or renamed. On an object store this is one PUT,
    which fails if the object exists, unless `replace`.

    Args:
        path: path of the file.
        write: function that writes the content to an open file.
        replace: replace an existing file.

    Raises:
        FileExistsError: the file exists and `replace` is false.
    """
    if is_local(path):
        _publish_local(Path(path.path), write, replace)
    else:
        with temporary_folder("subject-diffusion-upload-") as folder:
            with (folder / "object").open("w+b") as file:
                write(file)
            _put(path, str(folder / "object"), replace)


def publish_bytes(path: UPath, content: bytes) -> None:
    """Write a small file atomically, as `publish` does, replacing an existing one."""

    def write(file: IO[bytes]) -> None:
        file.write(content)

    publish(path, write, replace=True)


def sweep(path: UPath) -> None:
    """Remove temporary files that killed writers of `path` left. Only the holder of its lock may call this."""
    if is_local(path):
        for leftover in Path(path.path).parent.glob(f".{path.name}.*.tmp"):
            leftover.unlink(missing_ok=True)


@contextmanager
def open_binary(path: UPath) -> Iterator[IO[bytes]]:
    """Open a file for random access. Reads of an object fetch only the requested bytes, without read-ahead.

    Raises:
        FileNotFoundError: there is no such file.
    """
    with path.open("rb") if is_local(path) else path.fs.open(path.path, "rb", cache_type="none") as file:
        yield file


def contents(path: UPath) -> bytes:
    """Return the content of a small file, read in one request, so that a concurrent replacement cannot tear it.

    Raises:
        FileNotFoundError: there is no such file.
    """
    whole: bytes = path.fs.cat_file(path.path)
    return whole


def make_private(folder: Path) -> None:
    """Create `folder`, unless it exists, with access for this user only; for folders under predictable names.

    Raises:
        PermissionError: the path is a link, a file or another user's folder.
    """
    with suppress(FileExistsError):
        folder.mkdir(mode=0o700)
    status = folder.lstat()
    if not stat.S_ISDIR(status.st_mode) or status.st_uid != os.getuid():
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
            os.link(unfinished, path)  # unlike rename, fails if the file exists
        fsync_folder(path.parent)
    finally:
        unfinished.unlink(missing_ok=True)


def fsync_folder(folder: Path) -> None:
    """Write the names in `folder` to disk, so that a renamed file survives a loss of power."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _reason(error: Exception) -> str:
    """Return the message of a storage's client in one line."""
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return f"{type(error).__name__}: {' '.join(str(error).split())}"


def _put(path: UPath, spooled: str, replace: bool) -> None:
    try:
        path.fs.put_file(spooled, path.path, mode="overwrite" if replace else "create")
    except FileExistsError:
        raise
    except OSError as error:  # stores that report a failed condition differently from Amazon's
        if replace or not path.exists():
            raise
        raise FileExistsError(f"{path} already exists") from error
