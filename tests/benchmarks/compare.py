"""Compares the benchmarks of the working tree with those of another commit, in turns.

    python -m tests.benchmarks.compare main -k samples_per_core
    make bench-compare BASE=main OPTIONS="-k samples_per_core"

The commit is checked out in a temporary folder, with the tests of the working tree, so that both sides are measured by
the same benchmarks. Figures that are measured are compared by the median ratio of at least five pairs, counted ones by
one pair. The exit status is 1 if a ratio is below .95, and 2 if nothing could be compared.
"""

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.benchmarks.history import ROOT, Better, Figure, Kind, read_history
from tests.benchmarks.pairs import Spread

LEAST = 0.95
Figures = Mapping[str, Figure]
"""Figures of one run, by name."""


@dataclass(frozen=True)
class Comparison:
    """A figure of both sides; a ratio above 1 is progress."""

    figure: Figure
    ratios: Spread

    @property
    def is_regression(self) -> bool:
        return self.ratios.median < LEAST

    def __str__(self) -> str:
        verdict = f"  below {LEAST:g}" if self.is_regression else ""
        return f"{self.figure.name}: {self.ratios:.3f}, {len(self.ratios.values)} pairs{verdict}"


def main(arguments: Sequence[str]) -> int:
    """Compare, print the ratios, and return the exit status."""
    parser = argparse.ArgumentParser(description="Other options are those of pytest, such as -k.")
    parser.add_argument("base", help="commit to compare with")
    parser.add_argument("--pairs", type=int, default=5, help="pairs of measurements, at least 5")
    options, selection = parser.parse_known_args(arguments)
    if options.pairs < 5:
        parser.error("--pairs: the median of fewer than 5 pairs says little on a machine with other work")
    with checked_out(options.base) as base:
        pairs = run_in_turns(base, ROOT, options.pairs, selection)
    comparisons = compare(pairs)
    print(*comparisons, sep="\n")
    print(*(f"not measured on both sides: {name}" for name in one_sided(pairs)), sep="\n")
    if not comparisons:
        return 2
    return int(any(each.is_regression for each in comparisons))


@contextmanager
def checked_out(commit: str) -> Iterator[Path]:
    """Check `commit` out in a temporary folder, with the tests of the working tree."""
    with tempfile.TemporaryDirectory(prefix="sd-bench-") as temporary:
        folder = Path(temporary) / "base"
        subprocess.run(["git", "-C", ROOT, "worktree", "add", "--quiet", "--detach", folder, commit], check=True)
        try:
            shutil.rmtree(folder / "tests", ignore_errors=True)
            shutil.copytree(ROOT / "tests", folder / "tests", ignore=shutil.ignore_patterns("__pycache__"))
            yield folder
        finally:
            subprocess.run(["git", "-C", ROOT, "worktree", "remove", "--force", folder], check=True)


def run_in_turns(base: Path, ours: Path, pairs: int, selection: Sequence[str]) -> list[tuple[Figures, Figures]]:
    """Run the selected benchmarks on both sides; after the first pair, only those that measure something."""
    figures = []
    for turn in range(pairs):
        sides = (base, ours) if turn % 2 == 0 else (ours, base)  # neither side always has the warmer machine
        results = {side: run_benchmarks(side, selection) for side in sides}
        figures.append((results[base], results[ours]))
        measured = {f.benchmark for f in results[ours].values() if f.kind is Kind.MEASURED}
        if not measured:
            break
        selection = [f"tests/benchmarks/{benchmark}" for benchmark in sorted(measured)]
    return figures


def run_benchmarks(folder: Path, selection: Sequence[str]) -> Figures:
    """Run the benchmarks of a checkout, and return their figures.

    Gates that they miss are for `make bench`: here only the figures count.
    """
    with tempfile.TemporaryDirectory(prefix="sd-bench-") as temporary:
        history = Path(temporary) / "history.jsonl"
        if not any(word.startswith("tests/") for word in selection):
            selection = ["tests/benchmarks", *selection]
        command = [sys.executable, "-m", "pytest", "-m", "bench", "-q", "--no-header", "--history", str(history)]
        command += ["--continue-on-collection-errors"]  # BASE may lack what another benchmark imports
        env = os.environ | {"PYTHONPATH": str(folder)}
        subprocess.run([*command, *selection], cwd=folder, env=env, check=False)
        return {figure.name: figure for figure in read_history(history)}


def compare(pairs: Sequence[tuple[Figures, Figures]]) -> list[Comparison]:
    """Return a comparison of each figure that both sides have, and that is not a tolerance."""
    first_base, first_ours = pairs[0]
    names = [name for name in first_ours if name in first_base and first_ours[name].kind is not Kind.TOLERANCE]
    return [
        Comparison(
            first_ours[name],
            Spread(tuple(_ratio(base[name], ours[name]) for base, ours in pairs if name in base and name in ours)),
        )
        for name in names
    ]


def one_sided(pairs: Sequence[tuple[Figures, Figures]]) -> list[str]:
    """Return the names of the figures that only one side has."""
    base, ours = pairs[0]
    return sorted(base.keys() ^ ours.keys())


def _ratio(base: Figure, ours: Figure) -> float:
    if base.median == ours.median:
        return 1.0
    above, below = (base.median, ours.median) if ours.better is Better.LESS else (ours.median, base.median)
    return above / below if below else float("inf")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
