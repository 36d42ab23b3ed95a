"""History of the benchmarks' figures: JSON lines that `make bench` appends, and the page that is drawn from them.

    python -m tests.benchmarks.history      # draws docs/benchmarks/history.md

A line holds one figure of one run, with commit, machine, versions and load.
"""

import json
import os
import platform
import subprocess
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from enum import StrEnum
from functools import cache
from importlib.metadata import version
from itertools import groupby
from pathlib import Path
from statistics import median

from tests.benchmarks.pairs import Spread
from tests.benchmarks.rehearsal_report import machine_text

ROOT = Path(__file__).parents[2]
HISTORY, PAGE = (f"docs/benchmarks/history.{suffix}" for suffix in ("jsonl", "md"))
LIBRARIES = ("torch", "numpy", "opencv-python-headless", "pillow", "pyarrow", "diffusers", "transformers", "ray")
BARS = "▁▂▃▄▅▆▇█"


class Better(StrEnum):
    """Direction of progress."""

    LESS = "less"
    MORE = "more"


class Kind(StrEnum):
    """What a comparison of two commits does with a figure."""

    MEASURED = "measured"
    """Time or memory, which varies: compared over several pairs."""
    COUNTED = "counted"
    """The same in every run: compared once."""
    TOLERANCE = "tolerance"
    """A difference or share near zero that its benchmark bounds: kept, never compared."""


@dataclass(frozen=True, kw_only=True)
class Run:
    """Circumstances of a measurement."""

    commit: str
    clean: bool
    """Whether the working tree was that of the commit."""
    date: str
    hardware: str
    versions: dict[str, str]


@dataclass(frozen=True, kw_only=True)
class Figure:
    """A figure of one run of a benchmark."""

    benchmark: str
    """File and name of the test."""
    figure: str
    unit: str
    better: Better
    kind: Kind
    median: float
    low: float
    high: float
    pairs: int
    """Number of measurements, each in a pair with one of the baseline where there is one."""
    load: float
    """Load average over a minute when the benchmark started."""
    run: Run

    @property
    def name(self) -> str:
        return f"{self.benchmark}: {self.figure}"

    def __str__(self) -> str:
        spread = f" ({self.low:.4g} to {self.high:.4g}, {self.pairs} pairs)" if self.pairs > 1 else ""
        return f"{self.figure}: {self.median:.4g} {self.unit}".rstrip() + spread


@dataclass(frozen=True)
class Recorder:
    """Prints the figures of a benchmark, and appends them to a history.

    Args:
        benchmark: file and name of the test.
        path: file of the history; None keeps nothing.
    """

    benchmark: str
    path: Path | None
    load: float = field(default_factory=lambda: os.getloadavg()[0])

    def __call__(
        self,
        figure: str,
        values: Spread | float,
        unit: str = "",
        better: Better = Better.LESS,
        kind: Kind = Kind.MEASURED,
    ) -> None:
        """Record a figure: its value, or the values of several pairs."""
        numbers = values.values if isinstance(values, Spread) else (values,)
        recorded = Figure(
            benchmark=self.benchmark,
            figure=figure,
            unit=unit,
            better=better,
            kind=kind,
            median=_short(median(numbers)),
            low=_short(min(numbers)),
            high=_short(max(numbers)),
            pairs=len(numbers),
            load=round(self.load, 1),
            run=current_run(),
        )
        print(f"\n{recorded}", end="")
        if self.path is not None:
            with self.path.open("a") as file:
                file.write(line_of(recorded))


@cache
def current_run() -> Run:
    """Return commit, machine and versions of this process."""
    changed = _git("status", "--porcelain", "--untracked-files=no", "--", ".", f":!{HISTORY}", f":!{PAGE}")
    return Run(
        commit=_git("rev-parse", "--short=10", "HEAD"),
        clean=not changed,
        date=datetime.now(UTC).date().isoformat(),
        hardware=machine_text(),
        versions={"python": platform.python_version()} | {library: version(library) for library in LIBRARIES},
    )


def line_of(figure: Figure) -> str:
    """Return a figure as a line of JSON with sorted keys; those of the run are among its own."""
    content = asdict(figure)
    return json.dumps(content | content.pop("run"), sort_keys=True, ensure_ascii=False) + "\n"


def read_history(path: Path) -> list[Figure]:
    """Return the figures of a history, in the order in which they were recorded."""
    return [_figure_of(json.loads(line)) for line in path.read_text().splitlines()] if path.exists() else []


def _figure_of(content: dict) -> Figure:
    run = Run(**{name: content.pop(name) for name in Run.__dataclass_fields__})
    content |= {"better": Better(content["better"]), "kind": Kind(content["kind"])}
    return Figure(**content, run=run)


def draw(figures: Sequence[Figure]) -> str:
    """Return the page of a history: each figure at its last run, beside the earlier ones on the same machine."""
    machines = list(dict.fromkeys((figure.run.hardware, _versions(figure.run)) for figure in figures))
    lines = [
        "# History of the benchmarks",
        "",
        "Drawn from `history.jsonl`, to which `make bench` appends; do not edit it. Each figure is that of its last",
        "run: the median, with the range of its pairs. Bars show the runs on the same machine, ▁ the least and █ the",
        "most. Load is that of the minute before the benchmark; + marks a working tree with changes.",
    ]
    by_file = sorted(figures, key=lambda figure: figure.benchmark)
    for file, of_file in groupby(by_file, key=lambda figure: figure.benchmark.partition("::")[0]):
        lines += ["", f"## `{file}`", ""]
        lines += ["| figure | median (range) | unit | better | pairs | runs | date | commit | machine | load |"]
        lines += ["|" + " --- |" * 10]
        lines += _rows(list(of_file), machines)
    lines += ["", "## Machines", ""]
    lines += [f"{number}. {hardware}; {versions}" for number, (hardware, versions) in enumerate(machines, start=1)]
    return "\n".join(lines) + "\n"


def _rows(figures: Sequence[Figure], machines: Sequence[tuple[str, str]]) -> Iterable[str]:
    for _, of_name in groupby(sorted(figures, key=lambda figure: figure.name), key=lambda figure: figure.name):
        *_, last = runs = list(of_name)
        alike = [figure.median for figure in runs if figure.run.hardware == last.run.hardware]
        spread = f" ({last.low:.4g} to {last.high:.4g})" if last.pairs > 1 else ""
        commit = last.run.commit + ("" if last.run.clean else "+")
        machine = machines.index((last.run.hardware, _versions(last.run))) + 1
        cells = [last.name.partition("::")[2], f"{last.median:.4g}{spread}", last.unit, last.better.value, last.pairs]
        cells += [_bars(alike), last.run.date, commit, machine, last.load]
        yield "| " + " | ".join(map(str, cells)) + " |"


def _bars(values: Sequence[float]) -> str:
    """Return a bar for each value, between the least and the most of them."""
    low, high = min(values), max(values)
    return "".join(BARS[round((value - low) / ((high - low) or 1) * (len(BARS) - 1))] for value in values)


def _versions(run: Run) -> str:
    return ", ".join(f"{library} {number}" for library, number in run.versions.items())


def _short(number: float) -> float:
    return float(f"{number:.5g}")


def _git(*arguments: str) -> str:
    command = ["git", "-C", str(ROOT), *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()


if __name__ == "__main__":
    (ROOT / PAGE).write_text(draw(read_history(ROOT / HISTORY)))
