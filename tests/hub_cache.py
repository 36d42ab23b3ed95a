"""The local cache of the hub, as downloads leave it."""

import shutil
from pathlib import Path

COMMIT = "0123456789abcdef0123456789abcdef01234567"


def cache_folder(cache: Path, hub_id: str, revision: str = "main", source: Path | None = None) -> Path:
    """Make the folder of a hub id in a cache, with a copy of the files of `source`, and return it."""
    repository = cache / f"models--{hub_id.replace('/', '--')}"
    (repository / "refs").mkdir(parents=True, exist_ok=True)
    (repository / "refs" / revision).write_text(COMMIT)
    folder = repository / "snapshots" / COMMIT
    if source is None:
        folder.mkdir(parents=True)
    else:
        shutil.copytree(source, folder)
    return folder
