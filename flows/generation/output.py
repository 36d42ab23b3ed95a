"""The folder of the images. A file's name tells what determines the image, so no job overwrites another's images."""

import re
import time
from contextlib import suppress
from pathlib import Path

from flows.generation.errors import InvalidJob, OutputError
from flows.generation.png import read_png
from flows.generation.provenance import Provenance
from infra.storage import publish_bytes, refuse_unwritable, storage_path

_SLUG_LETTERS = 40
_STALE_S = 3600.0
"""Age of a temporary file whose writer was killed, in seconds: writing an image takes milliseconds."""


def file_name(provenance: Provenance) -> str:
    """Return the name of an image's file: the start of the prompt, the seed, and the fingerprint."""
    words = re.findall(r"\w+", provenance.job.prompt[: 4 * _SLUG_LETTERS].lower())
    slug = "-".join(words)[:_SLUG_LETTERS].strip("-_") or "image"
    return f"{slug}-{provenance.seed}-{provenance.fingerprint()}.png"


class OutputFolder:
    """Folder that images are written to; created if missing. Temporary files of runs that were killed are removed.

    Raises:
        SettingsError: the folder is not writable.
    """

    def __init__(self, folder: Path) -> None:
        refuse_unwritable(storage_path(folder), "--out")
        self.folder = folder
        self._remove_leftovers()

    def _remove_leftovers(self) -> None:
        for leftover in self.folder.glob(".*.png.*.tmp"):
            with suppress(FileNotFoundError):  # its writer is alive, or another run has removed it
                if time.time() - leftover.stat().st_mtime > _STALE_S:
                    leftover.unlink()

    def names(self) -> set[str]:
        """Return the names of the PNG files in the folder."""
        return {path.name for path in self.folder.glob("*.png")}

    def existing(self, name: str) -> Path:
        """Return the path of an image that was written before.

        Raises:
            InvalidJob: the file of that name is another image, or damaged.
        """
        path = self.folder / name
        try:
            _, found = read_png(path)
        except InvalidJob as error:
            raise InvalidJob(f"{error}. It has the name of an image to make: move it away") from error
        if file_name(found) != name:
            raise InvalidJob(f"{path} has the name of an image to make, but is another: move it away")
        return path

    def write(self, name: str, content: bytes) -> Path:
        """Write a file atomically, replacing one of the same name.

        Raises:
            OutputError: the disk is full, or the folder is not writable any more.
        """
        path = self.folder / name
        try:
            publish_bytes(storage_path(path), content)
        except OSError as error:
            raise OutputError(
                f"{path} cannot be written ({error.strerror}): free space, or give another folder"
            ) from error
        return path
