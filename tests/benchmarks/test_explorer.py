"""Answer times and memory of the explorer. Results: docs/benchmarks/dataset.md.

EXPLORED_ROWS=10000000 takes that many URLs instead of a million; that takes half an hour and 5 GB.
"""

import os
import resource
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from labeling.explorer.browse import Browser, Place
from labeling.explorer.facets import Facet
from labeling.explorer.filters import ImageFilter
from labeling.explorer.session import DatasetSession, QueryLimits
from labeling.quality.sample import draw_audit
from tests.synthetic import synthetic_dataset

pytestmark = pytest.mark.bench
ROWS = int(os.environ.get("EXPLORED_ROWS", "1000000"))
MEMORY_MIB = 3072
"""Largest peak of the process: 2 GB for queries, and what DuckDB does not count."""
TIMEOUT_S = 600.0
EVERYTHING = ImageFilter()


@pytest.fixture(scope="module")
def root(tmp_path_factory) -> Path:
    return synthetic_dataset(tmp_path_factory.mktemp("explored") / "sdd", ROWS)


def seconds(function: Callable[[], Any]) -> float:
    start = time.monotonic()
    function()
    return time.monotonic() - start


def test_rows_are_browsed(root, record):
    """Baseline: the second page. A page in the middle costs as much, because rows before it are not read."""
    cache = root.parent / "cache"
    limits = QueryLimits(timeout_s=TIMEOUT_S)
    record("first start, with the index", seconds(lambda: DatasetSession(str(root), cache, limits)), "s")
    record("second start", seconds(lambda: DatasetSession(str(root), cache, limits)), "s")
    print(f"\nindex: {sum(path.stat().st_size for path in cache.rglob('*.duckdb')) / 1e6:.0f} MB")
    session = DatasetSession(str(root), cache, limits)
    browser = Browser(session)
    first = browser.page(EVERYTHING, None, 60)
    middle = Place(f"shard-{ROWS // 2048:05d}", bytes(16))
    label = str(browser.facet(Facet.LABEL, EVERYTHING)[0].value[0])
    steps = {
        "first page": lambda: browser.page(EVERYTHING, None, 60),
        "second page": lambda: browser.page(EVERYTHING, first.cards[-1].place, 60),
        "page in the middle": lambda: browser.page(EVERYTHING, middle, 60),
        "first page of a frequent label": lambda: browser.page(ImageFilter(labels=(label,)), None, 60),
        "count of a frequent label": lambda: browser.count(ImageFilter(labels=(label,))),
        "search in captions": lambda: browser.count(ImageFilter(text="word42 word7")),
        **{f"facet {facet}": lambda facet=facet: browser.facet(facet, EVERYTHING) for facet in Facet},
        **{
            f"facet {facet} of a frequent label": lambda facet=facet: browser.facet(facet, ImageFilter(labels=(label,)))
            for facet in Facet
        },
        "SQL: labels of all entities": lambda: session.table("SELECT label, count(*) FROM entities GROUP BY label"),
        "sample of 1,000 for an audit": lambda: draw_audit(session.store, session, "bench", 1000, 0),
    }
    times = {name: seconds(step) for name, step in steps.items()}
    for name, each in times.items():
        record(name, each, "s")
    peak_mib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    record("peak memory", peak_mib, "MiB")
    assert peak_mib <= MEMORY_MIB
    assert times["page in the middle"] < 3 * times["second page"] + 0.2
