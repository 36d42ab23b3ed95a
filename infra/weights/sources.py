"""Where weights come from: the files of a hub id, their size and licence, and the local cache of the hub."""

import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from huggingface_hub import constants, snapshot_download
from huggingface_hub.errors import HFValidationError, IncompleteSnapshotError, LocalEntryNotFoundError

from infra.weights.files import WeightsFault, WeightsState


@dataclass(frozen=True, slots=True)
class Cure:
    """How to get weights that are missing or wrong."""

    command: str
    """Command that downloads or installs them."""
    advice: str = ""
    """What to know or do beside the command."""
    size_bytes: int | None = None
    """Size of the download, in bytes; None if it is not known."""
    licence: str = ""
    """Licence of the weights; empty if it is not known."""


@dataclass(frozen=True, slots=True)
class HubSource:
    """Files of a hub id that the code reads."""

    hub_id: str
    size_bytes: int | None = None
    """Size of the files, in bytes; None if it is not known."""
    licence: str = ""
    """Licence of the weights; empty if it is not known."""
    files: tuple[str, ...] = ()
    """Patterns of the files, so that copies in other formats are not downloaded too; empty for all."""
    commit: str | None = None
    """Commit that was looked up; None for the branch main."""

    def to_cache(self, revision: str | None) -> Cure:
        """Return the command that downloads a revision to the hub's cache, where the hub id finds it."""
        return self._cure(["--revision", revision] if revision not in (None, "main") else [])

    def to_folder(self, folder: str, advice: str) -> Cure:
        """Return the command that downloads the files to a folder, with `advice` on how to use it."""
        commit = ["--revision", self.commit] if self.commit else []
        return self._cure([*commit, "--local-dir", str(Path(folder).expanduser())], advice)

    def _cure(self, options: Sequence[str | None], advice: str = "") -> Cure:
        patterns = [word for pattern in self.files for word in ("--include", pattern)]
        command = shlex.join(["hf", "download", self.hub_id, *filter(None, options), *patterns])
        return Cure(command, advice, self.size_bytes, self.licence)


def find_local_folder(path: str) -> Path:
    """Return the path of a local folder.

    Raises:
        WeightsFault: it does not exist.
    """
    folder = Path(path).expanduser()
    if not folder.is_dir():
        raise WeightsFault(WeightsState.ABSENT, "no such folder")
    return folder


def find_folder(name: str, revision: str | None) -> Path:
    """Return a local folder, or the folder of a hub id in the local cache. Asks no server.

    Raises:
        WeightsFault: neither exists.
    """
    if is_path(name):
        return find_local_folder(name)
    try:
        return Path(snapshot_download(name, revision=revision, local_files_only=True))
    except IncompleteSnapshotError as error:
        return Path(error.snapshot_path)
    except (HFValidationError, LocalEntryNotFoundError):
        at_revision = "" if revision in (None, "main") else f" at revision {revision}"
        raise WeightsFault(WeightsState.ABSENT, f"no such folder, and not in the hub's cache{at_revision}") from None


def hub_cache() -> str:
    """Return the folder of the hub's local cache, which HF_HOME or HF_HUB_CACHE sets."""
    return str(constants.HF_HUB_CACHE)


def find_file(path: str) -> Path:
    """Return the path of a local file.

    Raises:
        WeightsFault: it does not exist.
    """
    file = Path(path).expanduser()
    if not file.is_file():
        raise WeightsFault(WeightsState.ABSENT, "no such file")
    return file


def file_cure(path: str, url: str, size_bytes: int, licence: str) -> Cure:
    """Return how to download a file from `url` to `path`."""
    command = shlex.join(["curl", "--location", "--create-dirs", "--output", str(Path(path).expanduser()), url])
    return Cure(command, size_bytes=size_bytes, licence=licence)


def folder_cure(name: str, revision: str | None, default: HubSource, setting: str) -> Cure:
    """Return how to get the weights that a setting names.

    Args:
        name: value of the setting: a folder or a hub id.
        revision: revision of the hub id.
        default: source that the setting names by default.
        setting: name of the setting.
    """
    folder = f"weights/{default.hub_id.rpartition('/')[2]}"
    if Path(name) == Path(folder):
        return default.to_folder(name, "")
    if Path(name).expanduser().exists():  # it may hold another network
        return default.to_folder(
            folder, f"copy {name} again, or take {default.hub_id} in its place: --set {setting}={folder}"
        )
    if is_path(name):
        return default.to_folder(name, "")
    source = default if name == default.hub_id else HubSource(name)
    return source.to_cache(revision)


def is_path(name: str) -> bool:
    """Return whether the value of a setting is a path: it exists, or cannot be a hub id."""
    return Path(name).expanduser().exists() or name.startswith(("/", "~", ".")) or name.count("/") > 1
