"""The search for near duplicates among a million perceptual hashes. `make bench`; results are in docs/benchmarks/."""

import time

import numpy as np
import pytest

from labeling.cleaning.near_hashes import Hashes, earliest_similar
from tests.benchmarks.history import Better, Kind, Recorder

pytestmark = pytest.mark.bench
HASHES = 1_000_000
COPIES = 100_000
ALL_PAIRS = 10_000
"""Hashes that the baseline compares pair by pair."""
BITS = 8


def smooth_hashes(count: int, rng: np.random.Generator) -> Hashes:
    """Difference hashes of random images whose spectrum falls with the frequency, as that of photographs does."""
    frequency = np.hypot(np.fft.fftfreq(8)[:, None], np.fft.rfftfreq(9))
    amplitude = 1 / np.maximum(frequency, 1 / 9)
    parts = []
    for start in range(0, count, 100_000):
        noise = rng.normal(size=(min(100_000, count - start), 8, 9)).astype(np.float32)
        cells = np.fft.irfft2(np.fft.rfft2(noise) * amplitude, (8, 9))
        bits = (cells[:, :, :-1] > cells[:, :, 1:]).reshape(-1, 64)
        parts.append(np.packbits(bits, axis=1).view(">u8")[:, 0].astype(np.uint64))
    return np.concatenate(parts)


def with_copies(hashes: Hashes, rng: np.random.Generator) -> Hashes:
    """The hashes, and after them copies of some that differ in up to `BITS` bits."""
    copies = rng.choice(hashes, COPIES, replace=False)
    for _ in range(BITS):
        copies ^= (rng.random(COPIES) < 0.5).astype(np.uint64) << rng.integers(0, 64, COPIES, np.uint64)
    return np.concatenate([hashes, copies])


def test_a_million_hashes_in_two_minutes(record: Recorder) -> None:
    rng = np.random.default_rng(0)
    hashes = with_copies(smooth_hashes(HASHES - COPIES, rng), rng)
    start, start_cpu = time.perf_counter(), time.process_time()
    found = earliest_similar(hashes, BITS) < np.arange(HASHES)
    seconds, cpu_seconds = time.perf_counter() - start, time.process_time() - start_cpu
    start = time.perf_counter()
    few = hashes[:ALL_PAIRS]
    for one in few:
        (np.bitwise_count(few ^ one) <= BITS).any()
    pairwise = (time.perf_counter() - start) * (HASHES / ALL_PAIRS) ** 2
    false = found[: HASHES - COPIES].mean()
    record("search among a million hashes", cpu_seconds, "CPU s")
    record("ratio to comparing all pairs, extrapolated", pairwise / seconds, better=Better.MORE)
    record("share of others called duplicates", false, kind=Kind.COUNTED)
    assert found[-COPIES:].all()
    assert seconds < 120
