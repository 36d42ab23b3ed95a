"""What came out of a rehearsal: rows that survive a restart, and their table."""

import json
import platform
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from enum import StrEnum
from importlib.metadata import version
from pathlib import Path
from typing import Any

import psutil

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
    """What became of a step."""

    name: str
    what: str
    status: Status
    note: str
    """What it made, or why it did not."""
    seconds: float | None = None
    cpu_seconds: float | None = None
    """Of all cores: what `seconds` would be on one core that does nothing else."""
    peak_bytes: int | None = None
    """Largest resident memory of its processes."""
    anonymous_bytes: int | None = None
    """Of it, what is not mapped from files."""
    disk_bytes: int | None = None
    """How much larger it left the folder of the rehearsal."""

    def cells(self) -> list[str]:
        """The row of the table."""
        return [
            self.what,
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
    """A rehearsal's result so far."""

    command: str
    settings: Mapping[str, Any]
    differences: Sequence[tuple[str, Any, Any]]
    """Settings that are not those of the ordinary commands: name, theirs, the rehearsal's."""
    rows: Sequence[Row]

    def write(self, out: Path) -> None:
        """Write both files, each whole or not at all."""
        content = {
            "command": self.command,
            "settings": dict(self.settings),
            "machine": machine(),
            "versions": versions(),
            "differences": [list(one) for one in self.differences],
            "rows": [asdict(row) for row in self.rows],
        }
        _replace(out / RESULT, json.dumps(content, indent=2) + "\n")
        _replace(out / TABLE, self.markdown())

    def markdown(self) -> str:
        """The tables with what they were measured on."""
        lines = [
            f"`{self.command}`: {machine()}, {', '.join(f'{name} {found}' for name, found in versions().items())}",
            "",
            *_table(HEADER, [row.cells() for row in self.rows]),
            "",
            "Where settings differ from the defaults of `build` and from `infra/configs/paper.toml`:",
            "",
            *_table(["setting", "there", "here"], [[f"`{n}`", _value(p), _value(o)] for n, p, o in self.differences]),
        ]
        return "\n".join(lines) + "\n"


def rows_of(out: Path) -> tuple[Mapping[str, Any], list[Row]]:
    """Settings and rows of the rehearsal in `out`; nothing where there is none."""
    path = out / RESULT
    if not path.exists():
        return {}, []
    content = json.loads(path.read_text())
    rows = [Row(**{**row, "status": Status(row["status"])}) for row in content["rows"]]
    return content["settings"], rows


def machine() -> str:
    """Processor, cores, memory and system."""
    memory = psutil.virtual_memory().total / GIB
    system = f"{platform.system()} {platform.release().partition('-')[0]}"
    return f"{_processor()}, {psutil.cpu_count()} cores, {memory:.0f} GiB, {system}"


def versions() -> dict[str, str]:
    """Of Python and of the libraries that compute."""
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


def _replace(path: Path, text: str) -> None:
    partial = path.with_name(f".{path.name}.partial")
    partial.write_text(text)
    partial.replace(path)
