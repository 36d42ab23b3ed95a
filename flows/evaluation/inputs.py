"""Benchmark, protocols and photos that the settings of an evaluation name."""

import os
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path

from evaluation.benchmarks.benchmark import Benchmark
from evaluation.benchmarks.catalog import load_benchmark
from evaluation.config import EvaluationConfig
from evaluation.errors import InvalidProtocol
from evaluation.protocol_catalog import IMITATED, load_protocol
from evaluation.protocols import MissingImages, Protocol
from evaluation.report.pictures import spread
from infra.config import SettingsError
from miniature.scoring.benchmark import NAME as MINIATURE_BENCHMARK
from miniature.scoring.benchmark import miniature_benchmark
from miniature.scoring.embedder_encoder import MINIATURE


def chosen_benchmark(config: EvaluationConfig, out: Path) -> Benchmark:
    """Return the benchmark, or the part of it that the settings ask for, under a name of its own.

    Args:
        config: settings.
        out: folder of the results; the miniature benchmark writes its photos there.

    Raises:
        InvalidBenchmark: there is none of this name, or its file is unusable.
        ImagesError: a benchmark's file names images that are missing.
    """
    if config.benchmark == MINIATURE_BENCHMARK:
        benchmark = miniature_benchmark(out / "photos")
    else:
        benchmark = load_benchmark(config.benchmark)
    images = config.images_per_case or benchmark.images_per_case
    cases = tuple(spread(benchmark.cases, config.cases or len(benchmark.cases)))
    if len(cases) == len(benchmark.cases):
        return replace(benchmark, images_per_case=images)
    part = f"{len(cases)} of {len(benchmark.cases)} cases"
    return replace(
        benchmark,
        name=f"{benchmark.name}, {part}",  # no table with published scores of the whole
        title=f"{benchmark.title}: {part}",
        cases=cases,
        images_per_case=images,
    )


def photos_folder(benchmark: Benchmark, given: Path | None) -> Path:
    """Return the folder of the subjects' photos: the given one, that of the benchmark's file, or `SD_DREAMBENCH_DIR`.

    Raises:
        SettingsError: none is named.
    """
    named = os.environ.get("SD_DREAMBENCH_DIR")
    folder = given or benchmark.images_folder or (Path(named) if named else None)
    if folder is None:
        raise SettingsError(f"--references is missing: give the folder of the photos of {benchmark.name}")
    return folder


def chosen_protocols(config: EvaluationConfig, imitated: Iterable[str]) -> list[Protocol]:
    """Return the protocols of the settings, then those of imitated evaluators, each once.

    Args:
        config: settings.
        imitated: names of published evaluators.

    Raises:
        InvalidProtocol: there is no such protocol or evaluator.
    """
    names = dict.fromkeys((*config.protocols, *map(_imitating, imitated)))
    found = [MINIATURE if name == MINIATURE.name else load_protocol(name) for name in names]
    if not config.allow_missing:
        return found
    return [protocol.model_copy(update={"missing": _tolerant(protocol.missing)}) for protocol in found]


def class_names(benchmark: Benchmark, subjects: Sequence[str]) -> list[str]:
    """Return the class word of each subject."""
    return [benchmark.subjects[name].class_name for name in subjects]


def _imitating(evaluator: str) -> str:
    if evaluator not in IMITATED:
        raise InvalidProtocol(f"--imitate {evaluator}: choose one of {', '.join(IMITATED)}")
    return IMITATED[evaluator]


def _tolerant(missing: MissingImages) -> MissingImages:
    return MissingImages.LEAVE_OUT if missing is MissingImages.REFUSE else missing
