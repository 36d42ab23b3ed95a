"""The folder of an export, which appears under its name only when it is complete.

Until then it is a hidden folder beside it. A stopped export resumes there: images that are whole are not written again.
"""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from infra.storage import fsync_folder
from labeling.errors import ExchangeError
from labeling.sdd.schema import SddRow
from labeling.sdd.upright import upright_file

_IDENTITY = ".identity"


@contextmanager
def export_folder(out: Path, identity: str) -> Iterator[Path]:
    """Yield the folder to write to, and give it the name `out` when the block ends without an error.

    Args:
        out: folder of the export; must not exist.
        identity: text that changes with the rows and the format; the remains of another export are removed.

    Raises:
        ExchangeError: `out` exists, or cannot be written.
    """
    if out.exists():
        raise ExchangeError(f"{out} exists: give the name of a new folder, or remove it")
    partial = out.with_name(f".{out.name}.partial")
    try:
        _begin(partial, identity)
        yield partial
        (partial / _IDENTITY).unlink()
        partial.rename(out)
        fsync_folder(out.parent)
    except OSError as error:
        raise ExchangeError(f"{out} cannot be written ({error}): give a folder with enough space") from error


def write_image(folder: Path, row: SddRow) -> str:
    """Write the image of a row unless it is there; return the name of its file: the key and the suffix of its type."""
    suffix, content = upright_file(row.image, row.media_type)
    path = folder / f"{row.key.hex()}{suffix}"
    if not path.exists() or path.stat().st_size != len(content):
        unfinished = path.with_name(f".{path.name}.tmp")
        unfinished.write_bytes(content)
        unfinished.replace(path)
    return path.name


def _begin(partial: Path, identity: str) -> None:
    mark = partial / _IDENTITY
    if partial.exists() and not (mark.exists() and mark.read_text() == identity):
        shutil.rmtree(partial)
    partial.mkdir(parents=True, exist_ok=True)
    mark.write_text(identity)
