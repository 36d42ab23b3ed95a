"""How busy the labelling pipeline keeps a GPU, and the CPU cores that one GPU needs.

`python -m tests.benchmarks.starvation --megapixels 2 --images 96 --slowdown 2` labels JPEGs with the stand-ins of
`tests.benchmarks.stand_ins`, which sleep as long as an H100 would compute, times `slowdown`. On fewer cores than a GPU
needs, the stand-ins must be slower by as much. Results: docs/benchmarks/feeding.md.
"""

import argparse
import logging
import tempfile
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from labeling.backends.load import load_tagger
from labeling.build import label_part
from labeling.config import Device, LabelingConfig, NounConfig, StageWorkers, Workers
from labeling.execution.processes import StageProcesses
from labeling.execution.report import ShardReport
from labeling.sdd.schema import Image
from labeling.stages.caption import CaptionStage
from labeling.stages.detect import DetectStage
from labeling.stages.nouns import NounStage
from labeling.stages.segment import SegmentStage
from labeling.steps import Step, chain_stages
from tests.benchmarks.photographs import jpegs, web_sizes
from tests.benchmarks.stand_ins import (
    A100_S,
    SlowedCaption,
    SlowedDetect,
    SlowedSegment,
    StandInCaptioner,
    StandInDetector,
    StandInSegmenter,
    gpu_s,
)
from tests.factories import downloaded, image, key

SHARDS = 2
"""The second shard is the one whose time counts: its worker has started, and has met every code path."""
MODULES = ("labeling.backends.spacy_tagger", "tests.benchmarks.stand_ins")
PER_GPU = Workers(prepare_threads=4)
PICTURES = 12
"""Different JPEGs; a longer shard has copies of them, each of which is decoded."""


@dataclass(frozen=True, slots=True)
class StageFigures:
    """One stage over one shard."""

    stage: str
    images: int
    seconds: float
    """Wall time."""
    cpu_s: float
    """CPU-seconds of the worker and its supervisor."""
    busy: float
    """Share of the wall time in which the stand-in computes; 0 for a stage without one."""

    @property
    def cpu_per_image(self) -> float:
        return self.cpu_s / self.images


def measure(megapixels: float, images: int, slowdown: float, reduced: bool = False) -> list[StageFigures]:
    """Label a dataset of JPEGs of web sizes scaled to `megapixels`; return the figures of each stage."""
    workers = StageWorkers(captions=PER_GPU, detections=PER_GPU, entities=PER_GPU.model_copy(update={"batch_size": 4}))
    with tempfile.TemporaryDirectory() as folder, closing(StageProcesses(MODULES)) as processes:
        write_images(folder, megapixels, images)
        config = LabelingConfig(root=folder, workers=workers)
        reports = (label_part(config, step, _shards(), "bench", None, processes) for step in steps(slowdown, reduced))
        return [_figures(of_stage, slowdown) for of_stage in reports]


def write_images(folder: str, megapixels: float, images: int) -> None:
    sizes = [_scaled(size, megapixels) for size in web_sizes(PICTURES)]
    pictures = jpegs(sizes)
    for number, shard in enumerate(_shards()):
        rows = [_image(number * images + i, pictures[i % PICTURES], sizes[i % PICTURES]) for i in range(images)]
        downloaded(Path(folder), rows, shard)


def steps(slowdown: float, reduced: bool) -> list[Step]:
    on_cpu: dict[str, Any] = {"device": Device.CPU, "slowdown": slowdown}
    return chain_stages(
        [
            (CaptionStage(SlowedCaption(reduced_decoding=reduced, **on_cpu), StandInCaptioner), ""),
            (NounStage(NounConfig(), load_tagger), ""),
            (DetectStage(SlowedDetect(**on_cpu), StandInDetector), ""),
            (SegmentStage(SlowedSegment(**on_cpu), StandInSegmenter), ""),
        ]
    )


def cores(figures: Sequence[StageFigures]) -> float:
    """CPU cores that one GPU needs, which runs the stages in turns."""
    return sum(each.cpu_per_image for each in figures) / sum(gpu_s(stage) for stage in A100_S)


def _shards() -> list[str]:
    return [f"shard-{number:05d}" for number in range(SHARDS)]


def _scaled(size: tuple[int, int], megapixels: float) -> tuple[int, int]:
    factor = (megapixels * 1e6 / (size[0] * size[1])) ** 0.5
    return round(size[0] * factor), round(size[1] * factor)


def _image(number: int, encoded: bytes, size: tuple[int, int]) -> Image:
    plain = image(number, encoded)
    fields = {name: getattr(plain, name) for name in Image.__slots__}
    return Image(**(fields | {"key": key(number + 1), "width_px": size[0], "height_px": size[1]}))


def _figures(reports: Sequence[ShardReport], slowdown: float) -> StageFigures:
    last = reports[-1]
    images = sum(last.counts.values())
    seconds = last.seconds - last.start_s
    computing = images * gpu_s(last.stage) * slowdown if last.stage in A100_S else 0.0
    return StageFigures(last.stage, images, seconds, last.cpu_s, computing / seconds)


def report(figures: Sequence[StageFigures], slowdown: float) -> str:
    lines = [
        f"{each.stage}: stand-in computes {each.busy:.2f} of {each.seconds:.1f} s; "
        f"{1e3 * each.cpu_per_image:.1f} ms of CPU an image"
        + (f", {each.cpu_per_image / gpu_s(each.stage):.1f} cores for an H100" if each.stage in A100_S else "")
        for each in figures
    ]
    needed = cores(figures)
    most = max(figures, key=lambda each: each.cpu_per_image)
    return "\n".join([*lines, f"one H100 needs {needed:.1f} cores; most CPU: {most.stage}; slowdown {slowdown:g}"])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--megapixels", type=float, default=2.0)
    parser.add_argument("--images", type=int, default=96)
    parser.add_argument("--slowdown", type=float, default=2.0)
    parser.add_argument("--reduced", action="store_true", help="labeling.caption.reduced_decoding")
    given = parser.parse_args()
    logging.basicConfig(level=logging.WARNING)
    figures = measure(given.megapixels, given.images, given.slowdown, given.reduced)
    print(report(figures, given.slowdown))


if __name__ == "__main__":
    main()
