"""The record of a checkpoint, `record.json`: how far its run was, its settings, its data, checksums of its files."""

import hashlib
import json
import logging
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ValidationError

from infra.storage import publish_bytes, storage_path
from training.checkpoints.checksums import FileSum, first_mismatch
from training.errors import CheckpointError
from training.parallel import Worker, told_by_leader
from training.state import Position

log = logging.getLogger(__name__)
FORMAT = 1
RECORD = "record.json"


@dataclass(frozen=True)
class Record:
    """What a checkpoint says of itself."""

    position: Position
    loss: float
    """Mean since the checkpoint before."""
    workers: int
    settings: Mapping[str, Any]
    """All of them, as tables."""
    stamp: str
    files: Mapping[str, FileSum] | None
    """Sizes and hashes of the other files by name; None in checkpoints of versions that wrote none."""


class _Settings(BaseModel, extra="allow"):
    """The tables that every job has."""

    model: dict[str, Any]
    training: dict[str, Any]


class _Content(BaseModel):
    """The JSON of a record."""

    step: int
    batches: int
    loss: float
    workers: int
    settings: _Settings
    stamp: str
    files: dict[str, FileSum] | None = None
    sha256: str | None = None
    """Of all other fields."""


def write_record(path: Path, record: Record) -> None:
    """Write the record of the checkpoint in `path`: its last file.

    Raises:
        OSError: it cannot be written.
    """
    content = {
        "format": FORMAT,
        "step": record.position.step,
        "batches": record.position.batches,
        "loss": record.loss,
        "workers": record.workers,
        "settings": record.settings,
        "stamp": record.stamp,
        "versions": {library: version(library) for library in ("torch", "diffusers", "transformers")},
        "files": {name: asdict(file) for name, file in (record.files or {}).items()},
    }
    text = json.dumps(content | {"sha256": _sha256(content)}, indent=2).encode() + b"\n"
    publish_bytes(storage_path(path / RECORD), text)


def record_of(path: Path) -> Record:
    """What the checkpoint in `path` says of itself.

    Raises:
        CheckpointError: there is none, it is damaged, or it is of another format.
    """
    file = path / RECORD
    try:
        found = json.loads(file.read_bytes())
        if isinstance(found, dict) and found.get("format", FORMAT) != FORMAT:
            raise CheckpointError(f"{path} is of format {found['format']}; this version of the code reads {FORMAT}")
        content = _Content.model_validate(found)
    except OSError as error:
        raise CheckpointError(f"{path} is no checkpoint: {RECORD} cannot be read ({error.strerror})") from error
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"]))
        raise CheckpointError(f"{file} is damaged: {where or 'its content'}: {first['msg']}") from error
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{file} is damaged: it is no JSON ({error})") from error
    if content.sha256 not in (None, _sha256(found)):
        raise CheckpointError(f"{file} is damaged: its content has changed since it was written (SHA-256 differs)")
    position = Position(content.step, content.batches)
    return Record(position, content.loss, content.workers, dict(content.settings), content.stamp, content.files)


def damage_of(path: Path, worker: Worker) -> str | None:
    """How the checkpoint in `path` differs from what was written, None where it does not; warns where it has no
    checksums. All workers call it together and get the same answer."""
    record = told_by_leader(worker, _record_or_damage(path) if worker.leads else "")
    if isinstance(record, str):
        return record
    if record.files is None:
        if worker.leads:
            log.warning("%s has no checksums: whether its files are as they were written cannot be told", path)
        return None
    mismatch = first_mismatch(path, record.files, worker)
    return mismatch and f"{path} is damaged: {mismatch}"


def _record_or_damage(path: Path) -> Record | str:
    try:
        return record_of(path)
    except CheckpointError as error:
        return str(error)


def _sha256(content: Mapping[str, Any]) -> str:
    """Hash of a record's fields but for the hash itself."""
    fields = {name: value for name, value in content.items() if name != "sha256"}
    return hashlib.sha256(json.dumps(fields, sort_keys=True).encode()).hexdigest()
