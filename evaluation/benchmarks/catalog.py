"""All benchmarks by name.

benchmark = load_benchmark("dreambench")
"""

from collections.abc import Callable, Mapping
from difflib import get_close_matches
from functools import partial
from pathlib import Path

from evaluation.benchmarks.benchmark import Benchmark
from evaluation.benchmarks.benchmark_file import read_benchmark
from evaluation.benchmarks.checks import BenchmarkProblem, refuse_inconsistent
from evaluation.benchmarks.concept101 import CURE as CONCEPT101_CURE
from evaluation.benchmarks.concept101 import concept101, concept101_pairs
from evaluation.benchmarks.dreambench import VARIANTS, dreambench
from evaluation.benchmarks.dreambench_plus import CURE as DREAMBENCH_PLUS_CURE
from evaluation.benchmarks.dreambench_plus import dreambench_plus
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


_COPIED: Mapping[str, tuple[Callable[[Path], Benchmark], str]] = {
    "concept101": (concept101, CONCEPT101_CURE),
    "concept101-pairs": (concept101_pairs, CONCEPT101_CURE),
    "dreambench-plus": (dreambench_plus, DREAMBENCH_PLUS_CURE),
}
"""Benchmarks whose lists may not ship: reader of the user's copy, and where to get it."""


def benchmark_names() -> tuple[str, ...]:
    """Return the names of the benchmarks whose lists ship with the project."""
    return tuple(_SHIPPED)


def copied_benchmark_names() -> tuple[str, ...]:
    """Return the names of the benchmarks that are read from the user's copy of the published lists."""
    return tuple(_COPIED)


def load_benchmark(name: str | Path) -> Benchmark:
    """Return a benchmark.

    Args:
        name: one of `benchmark_names`; or one of `copied_benchmark_names` with a folder, such as
            `concept101:downloads/customconcept101`; or the path of a benchmark's file (`.toml` or `.json`).

    Raises:
        InvalidBenchmark: there is no benchmark of this name, or its files are unusable.
        ImagesError: images are missing from the folder that the file names.
    """
    if isinstance(name, Path) or name.endswith((".toml", ".json")):
        return read_benchmark(Path(name))
    copied, _, folder = name.partition(":")
    if copied in _COPIED:
        return _load_copied(copied, folder)
    if name not in _SHIPPED:
        raise InvalidBenchmark(f"benchmark {name!r}: {_suggestion(name)}, or give the path of a .toml or .json file")
    return _SHIPPED[name]()


def _load_copied(name: str, folder: str) -> Benchmark:
    read, cure = _COPIED[name]
    if not folder:
        raise InvalidBenchmark(f"benchmark {name!r}: its lists may not ship with the project; {cure} as {name}:FOLDER")
    benchmark = read(Path(folder).expanduser())
    try:
        refuse_inconsistent(benchmark)
    except BenchmarkProblem as problem:
        raise InvalidBenchmark(f"{folder}: {problem}") from None
    return benchmark


def _suggestion(name: str) -> str:
    names = [*_SHIPPED, *(f"{copied}:FOLDER" for copied in _COPIED)]
    close = get_close_matches(name, names, n=1)
    return f"did you mean {close[0]}?" if close else f"there are {', '.join(names)}"
