"""The record of a run, `runs/NAME.json`: with what, where and when the dataset's files were made.

Its state is running, done, failed, or killed: the next run writes the last one into the record of a run that ended
without a word.
"""

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
from typing import Any

from upath import UPath

from infra.redaction import redact_all
from infra.storage import contents, is_local, place, publish_bytes
from labeling.config import LabelingConfig
from labeling.execution.presence import is_present, present, sweep_signs
from labeling.execution.supervisor import ShardReport
from labeling.steps import Step

log = logging.getLogger(__name__)
RUNNING, DONE, FAILED, KILLED = "running", "done", "failed", "killed"
PACKAGES = ("torch", "transformers", "spacy", "groundingdino-py", "segment-anything", "img2dataset", "pyarrow", "ray")


@dataclass
class RunRecord:
    """A run from its beginning to its end."""

    name: str
    config: LabelingConfig
    identities: dict[str, str]
    """By stage: a hash of its settings, and the hashes or names of its weights."""
    began: datetime
    shards: int
    """Of the list; a run that has ended has made all files of all of them."""
    counts: dict[str, dict[str, int]] = field(default_factory=dict)
    """Rows by layer and state, of new and reused files."""
    seconds: dict[str, dict[str, float]] = field(default_factory=dict)
    """By layer: of its workers, of the network alone, of decoding."""

    def add(self, layer: str, reports: Sequence[ShardReport]) -> None:
        """Count what was done in a part of the list."""
        counts = self.counts.setdefault(layer, {})
        seconds = self.seconds.setdefault(layer, {"work": 0.0, "network": 0.0, "prepare": 0.0})
        for report in reports:
            for state, n in report.counts.items():
                counts[state] = counts.get(state, 0) + n
            seconds["work"] += report.seconds
            seconds["network"] += report.process_s
            seconds["prepare"] += report.prepare_s
        self.write(RUNNING)

    def write(self, state: str) -> None:
        """Write the record with the time of now."""
        now = datetime.now(UTC)
        content = {
            "name": self.name,
            "state": state,
            "began": self.began.isoformat(timespec="seconds"),
            "until": now.isoformat(timespec="seconds"),
            "host": platform.node(),
            "python": platform.python_version(),
            "packages": _versions(),
            "shards": self.shards,
            "counts": self.counts,
            "seconds": self.seconds,
            "stages": self.identities,
            "settings": redact_all(self.config.model_dump(mode="json")),
        }
        _put(place(self.config.root) / "runs" / f"{self.name}.json", content)


@contextmanager
def recorded(config: LabelingConfig, steps: Sequence[Step], shards: int) -> Iterator[RunRecord]:
    """The record of a run that lasts as long as the block and makes so many shards."""
    root = place(config.root)
    tidy(root)
    name = f"{time.strftime('%Y%m%dT%H%M%S')}-{uuid.uuid4().hex[:6]}"
    identities = {step.stage.name: step.identity for step in steps}
    with present(root, name):
        record = RunRecord(name, config, identities, began=datetime.now(UTC), shards=shards)
        record.write(RUNNING)
        try:
            yield record
        except BaseException:  # an interrupt too
            with suppress(Exception):  # the storage's, if it is what failed
                record.write(FAILED)
            raise
        record.write(DONE)


def runs_of(root: UPath) -> list[dict[str, Any]]:
    """The records of all runs, the first one first, each with the state that the run is in now."""
    return [_as_of_now(root, path, record) for path in _files(root, ".json") if (record := _read(path))]


def tidy(root: UPath) -> None:
    """Write into the records of killed runs that they were killed, and remove what they left in `runs/`."""
    for path in _files(root, ".json"):
        record = _read(path)
        if record and (now := _as_of_now(root, path, record)) != record:
            _put(path, now)
    for path in _files(root, ".tmp") if is_local(root) else ():
        if not is_present(root, path.name.removeprefix(".").split(".json.")[0]):
            path.unlink(missing_ok=True)
    sweep_signs(root)


def _as_of_now(root: UPath, path: UPath, record: dict[str, Any]) -> dict[str, Any]:
    """The record, with another state where its run was killed."""
    if record["state"] != RUNNING or is_present(root, path.stem):
        return record
    last = _read(path) or record  # it may have ended since it was read
    return last | {"state": KILLED} if last["state"] == RUNNING else last


def _files(root: UPath, suffix: str) -> list[UPath]:
    folder = root / "runs"
    found = [path for path in folder.iterdir() if path.suffix == suffix] if folder.exists() else []
    return sorted(found, key=lambda path: path.name)


def _read(path: UPath) -> dict[str, Any] | None:
    try:
        record = json.loads(contents(path))
        return record if {"name", "state"} <= record.keys() else None
    except (ValueError, AttributeError):
        log.warning("%s is no record of a run", path)
        return None


def _put(path: UPath, content: dict[str, Any]) -> None:
    publish_bytes(path, json.dumps(content, indent=2).encode())


def _versions() -> dict[str, str]:
    found = {}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found
