"""Recorded runs of a dataset's build: throughput, time and cost by stage."""

from collections.abc import Sequence
from dataclasses import dataclass

from infra.report.document import Block, Paragraph, Section, Table
from labeling.execution.record import RecordFile, read_runs
from labeling.execution.usage import StageUsage
from labeling.report.staging import StagedDataset
from labeling.sdd.schema import Layer

_LAST_RUNS = 10
_HOUR_S = 3600


@dataclass(frozen=True, slots=True)
class Prices:
    """Prices of an hour, in any currency; None if not given."""

    cpu: float | None = None
    gpu: float | None = None

    def cost(self, usage: StageUsage) -> float:
        """Return the price of a stage's CPUs and GPUs."""
        cpu_s = usage.cpu_s + usage.start_cpu_s
        return (cpu_s * (self.cpu or 0.0) + usage.gpu_s * (self.gpu or 0.0)) / _HOUR_S


NO_PRICES = Prices()


def runs_section(dataset: StagedDataset, prices: Prices) -> Section:
    """Return the time and cost of each stage over all runs, and the last runs."""
    runs = read_runs(dataset.store.root)
    if not runs:
        return Section("Time by stage", [Paragraph("No run is recorded in runs/.")])
    blocks: list[Block] = [_stage_table(runs, prices), _run_table(runs)]
    return Section("Time by stage", blocks)


def _stage_table(runs: Sequence[RecordFile], prices: Prices) -> Table:
    rows = []
    for layer in Layer:
        seconds = {part: sum(run.get("seconds", {}).get(layer, {}).get(part, 0.0) for run in runs) for part in _PARTS}
        usage = StageUsage()
        for run in runs:
            usage.plus(StageUsage.of(run.get("usage", {}).get(layer, {})))
        if seconds["work"]:
            rows.append((layer.value, *(f"{value:,.1f}" for value in seconds.values()), *_usage_cells(usage, prices)))
    headings = ("Stage", *_PARTS.values(), "CPU-seconds", "GPU-seconds", "Images", "Images per worker second", "Cost")
    note = (
        "Sums over all runs and workers. Images per worker second leave out the starts of processes. Runs of earlier "
        "versions recorded neither images nor CPU-seconds."
    )
    return Table("Time by stage", headings, tuple(rows), (note,))


_PARTS = {"work": "Workers, s", "network": "Networks, s", "prepare": "Decoding, s"}


def _usage_cells(usage: StageUsage, prices: Prices) -> tuple[str, ...]:
    rate = f"{usage.images / usage.work_s:,.2f}" if usage.work_s else "-"
    cost = "-" if prices == NO_PRICES else f"{prices.cost(usage):,.4f}"
    cpu_s = usage.cpu_s + usage.start_cpu_s
    return f"{cpu_s:,.1f}", f"{usage.gpu_s:,.1f}", f"{usage.images:,.0f}", rate, cost


def _run_table(runs: Sequence[RecordFile]) -> Table:
    rows = tuple(
        tuple(str(run.get(field, "")) for field in ("name", "state", "began", "until", "host", "shards"))
        for run in runs[-_LAST_RUNS:]
    )
    return Table("The last runs", ("Run", "State", "Began", "Until", "Host", "Shards"), rows)
