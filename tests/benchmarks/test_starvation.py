"""Stand-ins for networks on a GPU are kept busy, and need few CPU cores. Results: docs/benchmarks/feeding.md."""

import os

import pytest

from tests.benchmarks.history import Better, Recorder
from tests.benchmarks.starvation import cores, measure, report

pytestmark = pytest.mark.bench
CORES = 4
"""CPU cores for one GPU."""


@pytest.mark.parametrize("megapixels", [2, 12])
def test_a_gpu_is_kept_busy(megapixels: int, record: Recorder) -> None:
    """On fewer than four cores the stand-ins are slower by as much. 12 MP is printed, not judged."""
    slowdown = CORES / min(CORES, os.cpu_count() or 1)
    figures = measure(megapixels, 96 if megapixels == 2 else 32, slowdown)
    print(f"\n{megapixels} MP\n{report(figures, slowdown)}")
    for each in figures:
        if each.stage != "nouns":
            record(f"{each.stage}: share of the time that the stand-in computes", each.busy, better=Better.MORE)
    record("CPU cores for one H100", cores(figures), "cores")
    if megapixels == 2:
        assert min(each.busy for each in figures if each.stage != "nouns") >= 0.9
        assert cores(figures) <= CORES
