"""What identifies the weights behind a stage: part of the stamp on every file that they made."""

import hashlib
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

SAMPLE_BYTES = 1 << 20
SAMPLES = 16
"""Of a big file so many evenly spaced pieces are hashed, beside its name and size: seconds for 15 GB, not minutes."""


@cache
def weights_id(checkpoint: str, revision: str = "") -> str:
    """12 hex digits for a local file or folder, by content; the name and revision of a hub id.

    A hub id's revision is taken at its word: give a commit, not a branch, where that matters.
    """
    path = Path(checkpoint).expanduser()
    if not path.exists():
        return f"hub:{checkpoint}@{revision}"
    files = sorted(p for p in path.rglob("*") if p.is_file()) if path.is_dir() else [path]
    digest = hashlib.sha256()
    for file in files:
        digest.update(f"{file.relative_to(path) if path.is_dir() else file.suffix} {file.stat().st_size}\n".encode())
        _update(digest, file)
    return digest.hexdigest()[:12]


def package_id(name: str) -> str:
    """Name and version of an installed package that carries weights, such as a spaCy pipeline; else a `weights_id`."""
    try:
        return f"{name}=={version(name)}"
    except PackageNotFoundError:
        return weights_id(name)


def _update(digest: "hashlib._Hash", file: Path) -> None:
    size = file.stat().st_size
    with file.open("rb") as data:
        if size <= SAMPLE_BYTES * SAMPLES:
            digest.update(data.read())
            return
        for i in range(SAMPLES):
            data.seek(i * (size - SAMPLE_BYTES) // (SAMPLES - 1))
            digest.update(data.read(SAMPLE_BYTES))
