"""Report of a rehearsal: its rows, which a restart continues, and their table."""

import json
import platform
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from enum import StrEnum
from importlib.metadata import version
from pathlib import Path
from typing import Any

import psutil

from infra.storage import publish_bytes, storage_path

GIB, GB = 2**30, 10**9
RESULT = "rehearsal.json"
TABLE = "rehearsal.md"
LIBRARIES = ("torch", "diffusers", "transformers", "open_clip_torch", "safetensors")


class Status(StrEnum):
    DONE = "done"
    SKIPPED = "skipped"
    FAILED = "failed"


@dataclass(frozen=True)
class Row:
    """Result and cost of a step."""

    name: str
    title: str
    status: Status
    note: str
    """Result of the step, or the reason for which it has none."""
    seconds: float | None = None
    cpu_seconds: float | None = None
    """CPU seconds of all cores."""
    peak_bytes: int | None = None
    """Largest resident memory of its processes, in bytes."""
    anonymous_bytes: int | None = None
    """Part of the peak that is not mapped from files, in bytes."""
    disk_bytes: int | None = None
    """Bytes by which the rehearsal's folder grew."""

    def cells(self) -> list[str]:
        """Return the cells of the table's row."""
        return [
            self.title,
            self.status.value,
            _cell(self.seconds, 1, "{:,.0f}"),
            _cell(self.cpu_seconds, 1, "{:,.0f}"),
            _cell(self.peak_bytes, GIB, "{:.1f}"),
            _cell(self.anonymous_bytes, GIB, "{:.1f}"),
            _cell(self.disk_bytes, GB, "{:.2f}"),
            self.note.replace("|", "\\|"),
        ]


HEADER = ["step", "", "seconds", "CPU seconds", "peak GiB", "of it anonymous", "GB on disk", ""]


@dataclass(frozen=True)
class Report:
    """Report of the steps so far."""

    command: str
    settings: Mapping[str, Any]
    differences: Sequence[tuple[str, Any, Any]]
    """Settings that differ from the ordinary commands: name, ordinary value, value of the rehearsal."""
    rows: Sequence[Row]

    def write(self, out: Path) -> None:
        """Write `RESULT` and `TABLE`, each atomically."""
        content = {
            "command": self.command,
            "settings": dict(self.settings),
            "machine": machine_text(),
            "versions": library_versions(),
            "differences": [list(one) for one in self.differences],
            "rows": [asdict(row) for row in self.rows],
        }
        publish_bytes(storage_path(out / RESULT), (json.dumps(content, indent=2) + "\n").encode())
        publish_bytes(storage_path(out / TABLE), self.markdown().encode())

    def markdown(self) -> str:
        """Return the tables, with machine, versions and command."""
        versions = ", ".join(f"{name} {version}" for name, version in library_versions().items())
        lines = [
            f"`{self.command}`: {machine_text()}, {versions}",
            "",
            *_table(HEADER, [row.cells() for row in self.rows]),
            "",
            "Where settings differ from the defaults of `build` and from `infra/configs/paper.toml`:",
            "",
            *_table(["setting", "there", "here"], [[f"`{n}`", _value(p), _value(o)] for n, p, o in self.differences]),
        ]
        return "\n".join(lines) + "\n"


def read_rows(out: Path) -> tuple[Mapping[str, Any], list[Row]]:
    """Read settings and rows of the rehearsal in `out`; both are empty if it has none."""
    path = out / RESULT
    if not path.exists():
        return {}, []
    content = json.loads(path.read_text())
    rows = [Row(**{**row, "status": Status(row["status"])}) for row in content["rows"]]
    return content["settings"], rows


def machine_text() -> str:
    """Return processor, cores, memory and system."""
    memory = psutil.virtual_memory().total / GIB
    system = f"{platform.system()} {platform.release().partition('-')[0]}"
    return f"{_processor()}, {psutil.cpu_count()} cores, {memory:.0f} GiB, {system}"


def library_versions() -> dict[str, str]:
    """Return the versions of Python and of the libraries that compute."""
    return {"Python": platform.python_version()} | {library: version(library) for library in LIBRARIES}


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


def _cell(value: float | None, unit: int, form: str) -> str:
    return "" if value is None else form.format(value / unit)


def _value(value: Any) -> str:
    return f"`{json.dumps(value)}`"


def _table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    lines = [header, ["---"] * len(header), *rows]
    return ["| " + " | ".join(cells) + " |" for cells in lines]
