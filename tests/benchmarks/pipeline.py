"""The pipeline with a clock on it."""

import time
from collections.abc import Sequence
from dataclasses import dataclass

from labeling.build import finish_part, label_part
from labeling.config import LabelingConfig
from labeling.execution.report import ShardReport
from labeling.steps import Step


@dataclass(frozen=True)
class Run:
    """A pipeline run over downloaded images, in seconds."""

    wall: float
    finish: float
    """Of `wall`: rules, `sdd/` and `ledger/`."""
    reports: dict[str, list[ShardReport]]
    """By stage."""

    @property
    def starts(self) -> float:
        """Loading the networks, summed over workers."""
        return sum(report.start_s for reports in self.reports.values() for report in reports)

    @property
    def prepare(self) -> float:
        """Thread seconds of decoding."""
        return sum(report.prepare_s for reports in self.reports.values() for report in reports)


def run_pipeline(config: LabelingConfig, steps: Sequence[Step], shards: Sequence[str]) -> Run:
    """Label the downloaded `shards`, one stage after the other."""
    start = time.perf_counter()
    reports = {step.stage.name: label_part(config, step, shards, "bench") for step in steps}
    labelled = time.perf_counter()
    finish_part(config, steps, shards)
    end = time.perf_counter()
    return Run(wall=end - start, finish=end - labelled, reports=reports)
