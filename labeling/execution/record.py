"""Record of a run, `runs/NAME.json`: settings, versions, times and counts of the files that the run made.

The state of a run is running, done, failed or killed. A run that was killed cannot write its last state, so the next
run writes it.
"""

import functools
import json
import logging
import platform
import time
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from typing import TypedDict

from pydantic import BaseModel
from upath import UPath

from infra.ranges import CountOrZero
from infra.redaction import redact_all
from infra.storage import contents, is_local, publish_bytes, storage_path
from labeling.config import LabelingConfig
from labeling.execution.presence import is_run_alive, mark_run_alive, remove_stale_markers
from labeling.execution.report import ShardReport
from labeling.execution.usage import StageUsage, cpu_seconds
from labeling.steps import Step

log = logging.getLogger(__name__)
RUNNING, DONE, FAILED, KILLED = "running", "done", "failed", "killed"
PACKAGES = ("torch", "transformers", "spacy", "groundingdino-py", "segment-anything", "img2dataset", "pyarrow", "ray")
"""Packages whose versions are recorded."""


class RecordFile(TypedDict, total=False):
    """Content of a record's file."""

    name: str
    state: str
    began: str
    until: str
    """Time at which the record was written last."""
    host: str
    python: str
    packages: dict[str, str]
    shards: int
    counts: dict[str, dict[str, int]]
    seconds: dict[str, dict[str, float]]
    usage: dict[str, dict[str, float]]
    """Use of time by layer: fields of `StageUsage`."""
    cpu_s: float
    """CPU-seconds of the run's process and of those that it has waited for; on Ray these are few of all."""
    stages: dict[str, str]
    settings: object


class _Fields(BaseModel):
    """Fields of a record's file that this program uses."""

    name: str
    state: str
    shards: CountOrZero = 0


@dataclass
class RunRecord:
    """Record of a run that is under way."""

    name: str
    config: LabelingConfig
    identities: dict[str, str]
    """Hash of the settings, and hashes or names of the weights, per stage."""
    began: datetime
    shards: int
    """Shards of the list; a run that is done has made the files of all of them."""
    counts: dict[str, dict[str, int]] = field(default_factory=dict)
    """Rows per layer and state, in new and reused files."""
    seconds: dict[str, dict[str, float]] = field(default_factory=dict)
    """Seconds per layer: of its workers, of the network alone, of decoding."""
    usage: dict[str, StageUsage] = field(default_factory=dict)
    """Use of time per layer, of new files alone."""
    cpu_began_s: float = field(default_factory=cpu_seconds)
    """CPU-seconds of this process and its children when the run began."""

    def add(self, layer: str, reports: Sequence[ShardReport]) -> None:
        """Add the reports of a part of the list, and write the record."""
        counts = self.counts.setdefault(layer, {})
        seconds = self.seconds.setdefault(layer, {"work": 0.0, "network": 0.0, "prepare": 0.0})
        usage = self.usage.setdefault(layer, StageUsage())
        for report in reports:
            usage.add(report)
            for state, n in report.counts.items():
                counts[state] = counts.get(state, 0) + n
            seconds["work"] += report.seconds
            seconds["network"] += report.process_s
            seconds["prepare"] += report.prepare_s
        self.write(RUNNING)

    def write(self, state: str) -> None:
        """Write the record with this state and the current time."""
        now = datetime.now(UTC)
        content: RecordFile = {
            "name": self.name,
            "state": state,
            "began": self.began.isoformat(timespec="seconds"),
            "until": now.isoformat(timespec="seconds"),
            "host": platform.node(),
            "python": platform.python_version(),
            "packages": _package_versions(),
            "shards": self.shards,
            "counts": self.counts,
            "seconds": self.seconds,
            "usage": {layer: usage.as_record() for layer, usage in self.usage.items()},
            "cpu_s": round(cpu_seconds() - self.cpu_began_s, 3),
            "stages": self.identities,
            "settings": redact_all(self.config.model_dump(mode="json")),
        }
        _write(storage_path(self.config.root) / "runs" / f"{self.name}.json", content)


@contextmanager
def record_run(config: LabelingConfig, steps: Sequence[Step], shards: int) -> Iterator[RunRecord]:
    """Record a run that lasts as long as the block.

    Args:
        config: settings of the run.
        steps: stages that it runs.
        shards: number of shards that it makes.
    """
    root = storage_path(config.root)
    mark_killed_runs(root)
    name = f"{time.strftime('%Y%m%dT%H%M%S')}-{uuid.uuid4().hex[:6]}"
    identities = {step.stage.name: step.identity for step in steps}
    with mark_run_alive(root, name):
        record = RunRecord(name, config, identities, began=datetime.now(UTC), shards=shards)
        record.write(RUNNING)
        try:
            yield record
        except BaseException:  # an interrupt too
            with suppress(Exception):  # an error of the storage, which may be what ended the run
                record.write(FAILED)
            raise
        record.write(DONE)


def read_runs(root: UPath) -> list[RecordFile]:
    """Read the records of all runs, the first run first, each with its current state."""
    return [_with_current_state(root, path, record) for path in _files(root, ".json") if (record := _read(path))]


def mark_killed_runs(root: UPath) -> None:
    """Set the state of killed runs to `killed`, and remove the unfinished files that they left in `runs/`."""
    for path in _files(root, ".json"):
        record = _read(path)
        if record and (current := _with_current_state(root, path, record)) != record:
            _write(path, current)
    for path in _files(root, ".tmp") if is_local(root) else ():
        if not is_run_alive(root, path.name.removeprefix(".").split(".json.")[0]):
            path.unlink(missing_ok=True)
    remove_stale_markers(root)


def _with_current_state(root: UPath, path: UPath, record: RecordFile) -> RecordFile:
    """Return the record, with the state `killed` if its run was killed."""
    if record["state"] != RUNNING or is_run_alive(root, path.stem):
        return record
    latest = _read(path) or record  # the run may have ended since the record was read
    return latest | {"state": KILLED} if latest["state"] == RUNNING else latest


def _files(root: UPath, suffix: str) -> list[UPath]:
    folder = root / "runs"
    paths = [path for path in folder.iterdir() if path.suffix == suffix] if folder.exists() else []
    return sorted(paths, key=lambda path: path.name)


def _read(path: UPath) -> RecordFile | None:
    try:
        record: RecordFile = json.loads(contents(path))
        _Fields.model_validate(record)
    except (ValueError, RecursionError):
        log.warning("%s is not a record of a run", path)
        return None
    return record


def _write(path: UPath, content: RecordFile) -> None:
    publish_bytes(path, json.dumps(content, indent=2).encode())


@functools.cache
def _package_versions() -> dict[str, str]:
    versions = {}
    for package in PACKAGES:
        with suppress(PackageNotFoundError):
            versions[package] = version(package)
    return versions
