"""Identity of the weights of a stage, which is part of the stamp of its files, and checks that weights exist."""

import hashlib
import re
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from labeling.errors import BackendWeightsError

SAMPLE_BYTES = 1 << 20
"""Size of a sample of a big file, in bytes."""
SAMPLES = 16
"""Number of evenly spaced samples of a big file that are hashed with its name and size, so 15 GB take seconds."""

_HUB_ID = re.compile(r"\w[\w.-]*(/\w[\w.-]*)?")


@cache
def weights_id(checkpoint: str, revision: str = "") -> str:
    """Return 12 hex digits of the content of a local file or folder, or the name and revision of a hub id.

    The revision of a hub id is not resolved, so only a commit pins the weights; a branch does not.
    """
    path = Path(checkpoint).expanduser()
    if not path.exists():
        return f"hub:{checkpoint}@{revision}"
    files = sorted(p for p in path.rglob("*") if p.is_file()) if path.is_dir() else [path]
    digest = hashlib.sha256()
    for file in files:
        digest.update(f"{file.relative_to(path) if path.is_dir() else file.suffix} {file.stat().st_size}\n".encode())
        _hash_file(digest, file)
    return digest.hexdigest()[:12]


def package_id(name: str, setting: str) -> str:
    """Return name and version of an installed package with weights, such as a spaCy pipeline; else a `weights_id`.

    Raises:
        BackendWeightsError: `name` is neither an installed package nor a folder; the message names the setting.
    """
    try:
        return f"{name}=={version(name)}"
    except PackageNotFoundError:
        if not Path(name).expanduser().is_dir():
            raise BackendWeightsError(
                f"{setting}={name!r} is neither an installed package nor a folder: install it, or give its folder"
            ) from None
        return weights_id(name)


def checkpoint_file(path: str, setting: str) -> Path:
    """Return the path of a file that must exist.

    Raises:
        BackendWeightsError: the file does not exist; the message names the setting.
    """
    file = Path(path).expanduser()
    if not file.is_file():
        raise BackendWeightsError(f"{setting}={path!r} is not a file: give the path of the downloaded checkpoint")
    return file


def check_folder_or_hub_id(checkpoint: str, setting: str) -> None:
    """Check that a checkpoint is a local folder, or has the form of a hub id. Does not ask the hub.

    Raises:
        BackendWeightsError: it is neither; the message names the setting.
    """
    path = Path(checkpoint).expanduser()
    if not path.is_dir() and (path.exists() or not _HUB_ID.fullmatch(checkpoint)):
        raise BackendWeightsError(
            f"{setting}={checkpoint!r} is neither a local folder nor a hub id such as OWNER/NAME: "
            f"give a folder in the layout of save_pretrained, or a hub id"
        )


def _hash_file(digest: "hashlib._Hash", file: Path) -> None:
    size = file.stat().st_size
    with file.open("rb") as data:
        if size <= SAMPLE_BYTES * SAMPLES:
            digest.update(data.read())
            return
        for i in range(SAMPLES):
            data.seek(i * (size - SAMPLE_BYTES) // (SAMPLES - 1))
            digest.update(data.read(SAMPLE_BYTES))
