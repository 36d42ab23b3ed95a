"""Checksums of a checkpoint's files, computed after writing and compared before reading.

A worker hashes the files that it wrote itself and checks its share of all files, so neither takes longer with more
workers. SHA-256 runs at the speed of a fast disk on processors with SHA instructions.
"""

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from training.distributed.parallel import Worker, gather_from_workers

_RANK = re.compile(r"__(\d+)_\d+\.distcp")
"""Names of torch's data files; the first number is the rank of the worker that wrote the file."""


@dataclass(frozen=True)
class FileSum:
    """Size and hash of one file."""

    size_bytes: int
    sha256: str


def file_sums(folder: Path, worker: Worker) -> dict[str, FileSum]:
    """Return sizes and hashes of all files in `folder` by name. All workers call this together and get the same.

    Raises:
        OSError: a worker cannot read one of its files.
    """
    names = [path.name for path in sorted(folder.iterdir()) if _writer(path.name) == worker.rank]
    parts: list[dict[str, FileSum] | OSError] = gather_from_workers(worker, _sums(folder, names))
    sums: dict[str, FileSum] = {}
    for part in parts:
        if isinstance(part, OSError):
            raise part
        sums |= part
    return sums


def first_mismatch(folder: Path, sums: Mapping[str, FileSum], worker: Worker) -> str | None:
    """Return the first difference between `sums` and the files in `folder`; None where there is none.

    All workers call this together. Each checks its share of the files, and all get the same answer.
    """
    share = sorted(sums)[worker.rank :: worker.count]
    mismatches = (_mismatch(folder / name, sums[name]) for name in share)
    return next(filter(None, gather_from_workers(worker, next(filter(None, mismatches), None))), None)


def _writer(name: str) -> int:
    """Return the rank of the worker that hashes the file: its writer, or the leader for files of no single worker."""
    match = _RANK.fullmatch(name)
    return int(match[1]) if match else 0


def _sums(folder: Path, names: list[str]) -> dict[str, FileSum] | OSError:
    """Return the sums or the error. A worker that raised here would leave the others waiting."""
    try:
        return {name: _sum(folder / name) for name in names}
    except OSError as error:
        return error


def _sum(path: Path) -> FileSum:
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
        return FileSum(file.tell(), digest)


def _mismatch(path: Path, written: FileSum) -> str | None:
    try:
        if (size := path.stat().st_size) != written.size_bytes:
            return f"{path.name} has {size} bytes instead of {written.size_bytes}"
        if _sum(path).sha256 != written.sha256:
            return f"the content of {path.name} has changed since it was written (SHA-256 differs)"
    except OSError as error:
        return f"{path.name} cannot be read ({error.strerror})"
    return None
