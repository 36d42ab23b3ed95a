"""Pairs of measurements in turns, so that other work on the machine meets both sides alike."""

import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from statistics import median

Measure = Callable[[], float]


@dataclass(frozen=True)
class Spread:
    """Median and range of some measurements."""

    values: tuple[float, ...]

    @property
    def median(self) -> float:
        return median(self.values)

    def __format__(self, spec: str) -> str:
        low, high = min(self.values), max(self.values)
        return f"{self.median:{spec}} ({low:{spec}} to {high:{spec}})"


def in_turns(before: Measure, after: Measure, pairs: int = 5) -> tuple[Spread, Spread, Spread]:
    """Measure both sides `pairs` times; return the spreads of `before`, of `after`, and of their ratio."""
    both = [(before(), after()) for _ in range(pairs)]
    return (
        Spread(tuple(old for old, _ in both)),
        Spread(tuple(new for _, new in both)),
        Spread(tuple(old / new for old, new in both)),
    )


def cpu_seconds_of(function: Callable[[], object]) -> float:
    """Return the CPU-seconds that a call takes in this process and in children that it waits for."""
    before = sum(os.times()[:4])
    function()
    return sum(os.times()[:4]) - before


def wall_seconds_of(function: Callable[[], object]) -> float:
    start = time.perf_counter()
    function()
    return time.perf_counter() - start
