"""All benchmarks by name.

benchmark = load_benchmark("dreambench")
"""

from collections.abc import Callable, Mapping
from difflib import get_close_matches
from functools import partial
from pathlib import Path

from evaluation.benchmarks.benchmark import Benchmark
from evaluation.benchmarks.benchmark_file import read_benchmark
from evaluation.benchmarks.dreambench import VARIANTS, dreambench
from evaluation.benchmarks.human import human
from evaluation.benchmarks.layout import layout
from evaluation.benchmarks.ms_bench import ms_bench
from evaluation.benchmarks.pairs import table_8_pairs, unique_table_8_pairs, uno_pairs
from evaluation.errors import InvalidBenchmark

_SHIPPED: Mapping[str, Callable[[], Benchmark]] = {
    **{name: partial(dreambench, name) for name in VARIANTS},
    "dreambench-pairs": table_8_pairs,
    "dreambench-pairs-unique": unique_table_8_pairs,
    "uno-pairs": uno_pairs,
    "human": human,
    "ms-bench": ms_bench,
    "layout": layout,
}
"""Benchmarks whose lists ship with the project."""


def benchmark_names() -> tuple[str, ...]:
    """Return the names that `load_benchmark` takes."""
    return tuple(_SHIPPED)


def load_benchmark(name: str | Path) -> Benchmark:
    """Return a benchmark.

    Args:
        name: one of `benchmark_names`, or the path of a benchmark's file (`.toml` or `.json`).

    Raises:
        InvalidBenchmark: there is no benchmark of this name, or the file is unusable.
        ImagesError: images are missing from the folder that the file names.
    """
    if isinstance(name, Path) or name.endswith((".toml", ".json")):
        return read_benchmark(Path(name))
    if name not in _SHIPPED:
        raise InvalidBenchmark(f"benchmark {name!r}: {_suggestion(name)}, or give the path of a .toml or .json file")
    return _SHIPPED[name]()


def _suggestion(name: str) -> str:
    close = get_close_matches(name, benchmark_names(), n=1)
    return f"did you mean {close[0]}?" if close else f"there are {', '.join(benchmark_names())}"
