"""The record of a run, `runs/NAME.json`: with what, where and when the dataset's files were made."""

import json
import platform
import time
import uuid
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from typing import Any, Self

from infra.redaction import redact_all
from infra.storage import place, publish
from labeling.config import LabelingConfig
from labeling.steps import Step
from labeling.supervisor import ShardReport

PACKAGES = ("torch", "transformers", "spacy", "groundingdino-py", "segment-anything", "img2dataset", "pyarrow", "ray")


@dataclass
class RunRecord:
    """A run from its beginning to its end."""

    name: str
    config: LabelingConfig
    identities: dict[str, str]
    """By stage: a hash of its settings, and the hashes or names of its weights."""
    began: datetime
    counts: dict[str, dict[str, int]] = field(default_factory=dict)
    """Rows by layer and state, of new and reused files."""
    seconds: dict[str, dict[str, float]] = field(default_factory=dict)
    """By layer: of its workers, of the network alone, of decoding."""

    @classmethod
    def begin(cls, config: LabelingConfig, steps: Sequence[Step]) -> Self:
        """A record under a new name, written at once."""
        name = f"{time.strftime('%Y%m%dT%H%M%S')}-{uuid.uuid4().hex[:6]}"
        identities = {step.stage.name: step.identity for step in steps}
        record = cls(name=name, config=config, identities=identities, began=datetime.now(UTC))
        record._write("running")
        return record

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
        self._write("running")

    def end(self) -> None:
        """All files are there."""
        self.counts.setdefault("sdd", {})
        self._write("done")

    def fail(self) -> None:
        """The run ends with an error, or was interrupted."""
        self._write("failed")

    def _write(self, state: str) -> None:
        now = datetime.now(UTC)
        content = {
            "name": self.name,
            "state": state,
            "began": self.began.isoformat(timespec="seconds"),
            "until": now.isoformat(timespec="seconds"),
            "host": platform.node(),
            "python": platform.python_version(),
            "packages": _versions(),
            "counts": self.counts,
            "seconds": self.seconds,
            "stages": self.identities,
            "settings": redact_all(self.config.model_dump(mode="json")),
        }
        text = json.dumps(content, indent=2).encode()
        publish(place(self.config.root) / "runs" / f"{self.name}.json", lambda file: _put(file, text), replace=True)


def _put(file: Any, text: bytes) -> None:
    file.write(text)


def _versions() -> dict[str, str]:
    found = {}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found
