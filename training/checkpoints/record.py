"""The record of a checkpoint, `record.json`: position, loss, settings, dataset stamp, and checksums of its files."""

import hashlib
import json
import logging
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ValidationError

from infra.storage import publish_bytes, storage_path
from training.checkpoints.checksums import FileSum, first_mismatch
from training.distributed.parallel import Worker, broadcast_from_leader
from training.errors import CheckpointError
from training.optimization.state import Position

log = logging.getLogger(__name__)
FORMAT = 1
RECORD = "record.json"
Settings = Mapping[str, Any]
"""All settings of a job as nested tables, as pydantic dumps them."""


@dataclass(frozen=True)
class Record:
    """Content of `record.json`."""

    position: Position
    loss: float
    """Mean loss of the images since the checkpoint before."""
    workers: int
    """Number of workers of the run."""
    settings: Settings
    stamp: str
    """Stamp of the dataset and the order of its rows."""
    files: Mapping[str, FileSum] | None
    """Sizes and hashes of the other files by name; None in checkpoints of versions that wrote none."""
    scores: Mapping[str, float] = field(default_factory=dict)
    """Scores of the evaluation at this step by name; empty without one."""


class _Optimizer(BaseModel):
    learning_rate: float


class _Training(BaseModel):
    accumulation: int
    optimizer: _Optimizer


class _Settings(BaseModel):
    """Settings of every job that a resumed job reads by name."""

    model: dict[str, object]
    training: _Training


class _Content(BaseModel):
    """Fields of the JSON file."""

    step: int
    batches: int
    loss: float
    workers: int
    settings: _Settings
    stamp: str
    files: dict[str, FileSum] | None = None
    scores: dict[str, float] = {}
    sha256: str | None = None
    """Hash of all other fields."""


def write_record(path: Path, record: Record) -> None:
    """Write the record of the checkpoint in `path`. It is the last file of a checkpoint.

    Raises:
        OSError: the file cannot be written.
    """
    content = {
        "format": FORMAT,
        "step": record.position.step,
        "batches": record.position.batches,
        "loss": record.loss,
        "scores": dict(record.scores),
        "workers": record.workers,
        "settings": record.settings,
        "stamp": record.stamp,
        "versions": {library: version(library) for library in ("torch", "diffusers", "transformers")},
        "files": {name: asdict(file) for name, file in (record.files or {}).items()},
    }
    text = json.dumps(content | {"sha256": _sha256(content)}, indent=2).encode() + b"\n"
    publish_bytes(storage_path(path / RECORD), text)


def read_record(path: Path) -> Record:
    """Read the record of the checkpoint in `path`.

    Raises:
        CheckpointError: the record is missing, damaged, or of another format.
    """
    file = path / RECORD
    try:
        values = json.loads(file.read_bytes())
        if isinstance(values, dict) and values.get("format", FORMAT) != FORMAT:
            raise CheckpointError(f"{path} is of format {values['format']}; this version of the code reads {FORMAT}")
        content = _Content.model_validate(values)
    except OSError as error:
        raise CheckpointError(f"{path} is not a checkpoint: {RECORD} cannot be read ({error.strerror})") from error
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"]))
        raise CheckpointError(f"{file} is damaged: {where or 'its content'}: {first['msg']}") from error
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{file} is damaged: it is not JSON ({error})") from error
    if content.sha256 not in (None, _sha256(values)):
        raise CheckpointError(f"{file} is damaged: its content has changed since it was written (SHA-256 differs)")
    position = Position(content.step, content.batches)
    return Record(
        position, content.loss, content.workers, values["settings"], content.stamp, content.files, content.scores
    )


def find_damage(path: Path, worker: Worker) -> str | None:
    """Return how the checkpoint in `path` differs from what was written, or None.

    Warns if the checkpoint has no checksums. All workers call this together and get the same answer.
    """
    record = broadcast_from_leader(worker, _record_or_damage(path) if worker.is_leader else "")
    if isinstance(record, str):
        return record
    if record.files is None:
        if worker.is_leader:
            log.warning("%s has no checksums, so its files cannot be verified", path)
        return None
    mismatch = first_mismatch(path, record.files, worker)
    return mismatch and f"{path} is damaged: {mismatch}"


def _record_or_damage(path: Path) -> Record | str:
    try:
        return read_record(path)
    except CheckpointError as error:
        return str(error)


def _sha256(content: Mapping[str, object]) -> str:
    """Return the hash of a record's fields, without the field that holds it."""
    fields = {name: value for name, value in content.items() if name != "sha256"}
    return hashlib.sha256(json.dumps(fields, sort_keys=True).encode()).hexdigest()
