"""Recorded runs of a dataset's build: throughput and time by stage."""

from collections.abc import Sequence

from infra.report.document import Block, Paragraph, Section, Table
from labeling.execution.record import RecordFile, read_runs
from labeling.report.staging import StagedDataset
from labeling.sdd.schema import Layer

_LAST_RUNS = 10


def runs_section(dataset: StagedDataset) -> Section:
    """Return the runs, and the seconds of each stage over all of them."""
    runs = read_runs(dataset.store.root)
    if not runs:
        return Section("Runs", [Paragraph("No run is recorded in runs/.")])
    blocks: list[Block] = [_stage_table(runs), _run_table(runs)]
    return Section("Time by stage", blocks)


def _stage_table(runs: Sequence[RecordFile]) -> Table:
    rows = []
    for layer in Layer:
        seconds = {part: sum(run.get("seconds", {}).get(layer, {}).get(part, 0.0) for run in runs) for part in _PARTS}
        images = sum(sum(run.get("counts", {}).get(layer, {}).values()) for run in runs)
        if seconds["work"]:
            rate = images / seconds["work"]
            rows.append((layer.value, f"{images:,}", *(f"{value:,.1f}" for value in seconds.values()), f"{rate:,.2f}"))
    headings = ("Stage", "Images", *_PARTS.values(), "Images per worker second")
    note = "Sums over all runs and workers. Images include those of files that a run found finished."
    return Table("Time by stage", headings, tuple(rows), (note,))


_PARTS = {"work": "Workers, s", "network": "Networks, s", "prepare": "Decoding, s"}


def _run_table(runs: Sequence[RecordFile]) -> Table:
    rows = tuple(
        tuple(str(run.get(field, "")) for field in ("name", "state", "began", "until", "host", "shards"))
        for run in runs[-_LAST_RUNS:]
    )
    return Table("The last runs", ("Run", "State", "Began", "Until", "Host", "Shards"), rows)
