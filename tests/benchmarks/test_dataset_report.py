"""Time and memory of the report of large datasets. Results: docs/benchmarks/dataset.md.

REPORT_ROWS=10000000 measures that many URLs too, beside the two sizes of the gate; that takes half an hour and 10 GB.
"""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.benchmarks.history import Recorder
from tests.synthetic import synthetic_dataset

pytestmark = pytest.mark.bench
ROWS = (100_000, 1_000_000)
MEMORY_MIB, ARROW_MIB = 2048, 64
"""Largest peak of the process, and of the shards in memory that DuckDB has not stored yet."""
GROWTH = 1.2
"""Largest ratio of the CPU time per row of the larger dataset to that of the smaller one."""


def measure(folder: Path, rows: int, record: Recorder) -> tuple[float, float, float]:
    """Return CPU-seconds, peak MiB of the process and of Arrow for a report of `rows` URLs."""
    root = synthetic_dataset(folder / str(rows), rows)
    command = [sys.executable, "-m", "tests.benchmarks.report_memory", str(root), str(folder / "report.html")]
    wall_s, cpu_s, peak_mib, arrow_mib = map(
        float, subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()
    )
    print(f"\n{rows:,} URLs: {wall_s:.1f} s; of Arrow {arrow_mib:.1f} MiB")
    record(f"report of {rows:,} URLs", cpu_s, "CPU s")
    record(f"peak memory at {rows:,} URLs", peak_mib, "MiB")
    return cpu_s, peak_mib, arrow_mib


def test_cost_per_row_does_not_grow_and_memory_is_bounded(tmp_path: Path, record: Recorder) -> None:
    sizes = (*ROWS, *map(int, os.environ.get("REPORT_ROWS", "").split()))
    found = {rows: measure(tmp_path, rows, record) for rows in sizes}
    assert max(peak_mib for _, peak_mib, _ in found.values()) <= MEMORY_MIB
    assert max(arrow_mib for *_, arrow_mib in found.values()) <= ARROW_MIB
    per_row = [cpu_s / rows for rows, (cpu_s, *_) in found.items()]
    assert max(per_row[1:]) <= GROWTH * per_row[0]
