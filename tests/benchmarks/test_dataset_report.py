"""Time and memory of the report of large datasets. Results: docs/benchmarks/dataset.md.

REPORT_ROWS=10000000 measures that many URLs too, beside the two sizes of the gate; that takes half an hour and 10 GB.
"""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.synthetic import synthetic_dataset

pytestmark = pytest.mark.bench
ROWS = (100_000, 1_000_000)
MEMORY_MIB = 2048
GROWTH = 1.2
"""Largest ratio of the CPU time per row of the larger dataset to that of the smaller one."""


def measure(folder: Path, rows: int) -> tuple[float, float, float]:
    """Return wall seconds, CPU-seconds and peak MiB of a report of `rows` URLs."""
    root = synthetic_dataset(folder / str(rows), rows)
    command = [sys.executable, "-m", "tests.benchmarks.report_memory", str(root), str(folder / "report.html")]
    wall_s, cpu_s, peak_mib = map(
        float, subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()
    )
    print(f"\n{rows:,} URLs: {wall_s:.1f} s, {cpu_s:.1f} CPU-seconds, {peak_mib:,.0f} MiB")
    return wall_s, cpu_s, peak_mib


def test_cost_per_row_does_not_grow_and_memory_is_bounded(tmp_path: Path) -> None:
    sizes = (*ROWS, *map(int, os.environ.get("REPORT_ROWS", "").split()))
    found = {rows: measure(tmp_path, rows) for rows in sizes}
    assert max(peak for *_, peak in found.values()) <= MEMORY_MIB
    per_row = [cpu_s / rows for rows, (_, cpu_s, _) in found.items()]
    assert max(per_row[1:]) <= GROWTH * per_row[0]
