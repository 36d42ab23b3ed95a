"""Figures of a labelling run beside their gates, as Markdown."""

import os
import platform
import subprocess
import time
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import version

from labeling.config import LabelingConfig
from labeling.execution.report import ShardReport
from tests.benchmarks.bare_stages import Bare
from tests.benchmarks.device_rates import Rate
from tests.benchmarks.pipeline import Run
from tests.benchmarks.workload import Workload

PACKAGES = ("torch", "transformers", "spacy", "pyarrow")
VERDICTS = {True: "met", False: "missed", None: ""}


@dataclass(frozen=True, slots=True)
class Figure:
    """A figure, and the gate that it is compared with if there is one."""

    what: str
    value: str
    gate: str = ""
    met: bool | None = None


def report(device: str, command: str, config: LabelingConfig, run: Run, bare: Bare, work: Workload) -> str:
    """The whole page."""
    figures = [*end_to_end(run, bare), *ratios(bare), *savings(bare, work), *facts(run, bare, work)]
    return "\n".join(
        [
            f"# Labelling on {hardware(device)}",
            "",
            f"{time.strftime('%Y-%m-%d')}. {_versions()}. {os.cpu_count()} cores.",
            "",
            f"    {command}",
            "",
            *stage_table(config, run, bare),
            "",
            *figure_table(figures),
            "",
            "Settings:",
            "",
            "```json",
            config.model_dump_json(indent=2),
            "```",
            "",
        ]
    )


def hardware(device: str) -> str:
    """Card, driver and memory; without a card, that the figures say nothing about one."""
    if device != "cuda":
        return f"a CPU ({platform.machine()}): the script runs, but these are no rates of a GPU"
    query = ["nvidia-smi", "--query-gpu=name,driver_version,memory.total", "--format=csv,noheader"]
    card, driver, memory = subprocess.check_output(query, text=True).splitlines()[0].split(", ")
    return f"{card}, {memory}, driver {driver}"


def _versions() -> str:
    return ", ".join([f"Python {platform.python_version()}", *(f"{name} {version(name)}" for name in PACKAGES)])


def stage_table(config: LabelingConfig, run: Run, bare: Bare) -> list[str]:
    """A line a stage: its network alone, and in the pipeline."""
    head = (
        *("stage", "images", "batch", "images a call", "alone, images/s", "in the pipeline, images/s"),
        *("ratio (gate 0.85)", "first batch alone, s", "loading, s", "peak memory, GiB"),
    )
    rows = []
    for name, alone in bare.stages.items():
        reports = run.reports[name]
        rows.append(
            (
                name,
                str(images_of(reports)),
                str(getattr(config.workers, name).batch_size),
                f"{alone.images_per_call:.1f}",
                f"{alone.rows_per_s:.2f}",
                f"{pace(reports):.2f}",
                f"{pace(reports) / alone.rows_per_s:.3f}",
                f"{alone.first_batch_s:.1f}",
                f"{sum(report.start_s for report in reports):.1f}",
                f"{alone.peak_gib:.1f}",
            )
        )
    return _table(head, rows)


def figure_table(figures: Sequence[Figure]) -> list[str]:
    return _table(("figure", "value", "gate", ""), [(f.what, f.value, f.gate, VERDICTS[f.met]) for f in figures])


def end_to_end(run: Run, bare: Bare) -> list[Figure]:
    """The whole chain; loading the networks is left out of its wall time."""
    wall = run.wall - run.starts
    alone = {name: images_of(run.reports[name]) / one.rows_per_s for name, one in bare.stages.items()}
    slowest = max(alone, key=alone.__getitem__)
    network = sum(report.process_s for reports in run.reports.values() for report in reports)
    return [
        Figure("images/s, end to end", f"{images_of(run.reports['captions']) / wall:.2f}"),
        _at_least(
            "networks' times alone, summed ÷ wall time (the stages share a device)", sum(alone.values()) / wall, 0.9
        ),
        Figure(
            f"images/s ÷ rate alone of the slowest stage, {slowest} (the gate: 0.90 on devices of their own)",
            f"{alone[slowest] / wall:.3f}",
        ),
        _at_most("share of wall time without a batch on a network", 1 - network / wall, 0.08),
        _at_most("rules, `sdd/` and `ledger/`, share of wall time", run.finish / wall, 0.03),
    ]


def ratios(bare: Bare) -> list[Figure]:
    """What batches and precision gain, network against network."""
    captions, boxes, masks = bare.captions, bare.boxes, bare.masks
    found = [
        _at_least(
            "captioner ÷ transformers, float16, one at a time", _gain(captions.pipeline, captions.library_single), 10
        ),
        _at_least(
            "captioner ÷ transformers, float16, same batches", _gain(captions.pipeline, captions.library_batched), 1.3
        ),
        _at_least("detector ÷ float32, one at a time", _gain(boxes.pipeline, boxes.single), 5),
        _at_least("detector with full batches of one size ÷ the same", _gain(boxes.even, boxes.single), 5),
        _at_least("boxes of an image alone that its batch gives too, IoU 0.99", boxes.same, 0.995),
        _at_least("segmenter ÷ float32, one at a time", _gain(masks.pipeline, masks.single), 7),
    ]
    if masks.compiled:
        found.append(_at_least("segmenter with torch.compile ÷ the same", _gain(masks.compiled, masks.single), 7))
    return found


def savings(bare: Bare, work: Workload) -> list[Figure]:
    """What was not computed, and what was in vain."""
    return [
        _at_least("boxes that the floor spares a mask", work.boxes_without_call / work.boxes, 0.3),
        Figure("images that the floor spares the segmenter", f"{work.images_without_call / work.images:.3f}"),
        _at_most("padding among prompt tokens", bare.boxes.padding, 0.1),
        _at_most("padding among the segmenter's pixels (its square input)", bare.masks.padding, 0.1),
    ]


def facts(run: Run, bare: Bare, work: Workload) -> list[Figure]:
    """The work that the figures above were measured on."""
    return [
        Figure("tokens a caption", str(bare.captions.tokens)),
        Figure("nouns an image", f"{work.nouns / work.images:.1f}"),
        Figure("boxes an image", f"{work.boxes / work.images:.1f}"),
        Figure("masks an image", f"{work.masks / work.images:.1f}"),
        Figure("bytes a mask", f"{work.mask_bytes / max(1, work.masks):.0f}"),
        Figure("segmenter alone, images/s that reach it", f"{bare.masks.pipeline.images_per_s:.2f}"),
        Figure("decoding, images/s and thread", f"{decoded_per_s(run):.2f}"),
    ]


def decoded_per_s(run: Run) -> float:
    """Of all stages, resizing and normalising for their networks included."""
    decoding = [reports for name, reports in run.reports.items() if name != "nouns"]
    return sum(map(images_of, decoding)) / run.prepare


def pace(reports: Sequence[ShardReport]) -> float:
    """Images per second of a stage with one worker; its first shard is warm-up, unless it is the only one."""
    steady = reports[1:] or reports
    return images_of(steady) / sum(report.seconds - report.start_s for report in steady)


def images_of(reports: Sequence[ShardReport]) -> int:
    return sum(sum(report.counts.values()) for report in reports)


def _gain(ours: Rate, other: Rate) -> float:
    return ours.images_per_s / other.images_per_s


def _at_least(what: str, value: float, gate: float) -> Figure:
    return Figure(what, f"{value:.3f}", f"≥ {gate:g}", value >= gate)


def _at_most(what: str, value: float, gate: float) -> Figure:
    return Figure(what, f"{value:.3f}", f"≤ {gate:g}", value <= gate)


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    return [f"| {' | '.join(cells)} |" for cells in (head, ["---"] * len(head), *rows)]
