"""Progress, funnel, runs and faults of a dataset folder as text, for `subject-diffusion status` and Prefect."""

from collections.abc import Sequence
from contextlib import suppress

import typer
from tqdm import tqdm

from infra.storage import storage_path
from labeling.audit import Audit, audit, check_contents
from labeling.errors import LabelingError
from labeling.execution.record import read_runs
from labeling.plan.measured import settings_of
from labeling.sdd.layers import OPTIONAL
from labeling.sdd.query import FunnelRow, funnel
from labeling.sdd.schema import Layer, State


def print_status(root: str, deep: bool) -> bool:
    """Print progress, funnel and runs, and each fault on standard error; return whether the dataset has no fault.

    Args:
        deep: read every byte of the files and compare it with their checksums.
    """
    report = audit(root)
    typer.echo(progress_table(report))
    problems = list(report.problems)
    typer.echo(f"\n{funnel_table(report.funnel())}")
    typer.echo(f"\n{runs_table(root)}")
    if deep:
        problems += changed_contents(report)
    for problem in dict.fromkeys(problems):
        typer.secho(f"wrong: {problem}", fg="red", err=True)
    return not problems


def changed_contents(report: Audit) -> list[str]:
    """Read every file and return the faults of their contents."""
    files = [file for layer in report.files.values() for file in layer.values()]
    compared = tqdm(check_contents(report), "reading", len(files), unit="file", disable=None)
    problems = [problem for _, problem in compared if problem]
    if unsealed := sum(file.stamp.size is None for file in files):
        typer.echo(
            f"\n{unsealed} of {len(files)} files have no checksum, because an earlier version wrote them; their "
            "keys and pictures were compared with those of other files instead"
        )
    return problems


def progress_table(report: Audit) -> str:
    """Return a Markdown table of finished shards and of images by state, per layer, counted from the files.

    Optional folders have a row if they have files, or the settings of the last run ask for them.
    """
    planned = len(report.files[Layer.URLS])
    lines = ["| layer | shards | " + " | ".join(s.value.replace("_", " ") for s in State) + " |"]
    lines.append("|---|--:|" + "--:|" * len(State))
    for layer in (*Layer, *_optional_folders(report)):
        files = report.files[layer].values()
        counts = {state: sum(file.stamp.counts.get(state, 0) for file in files) for state in State}
        cells = " | ".join(f"{counts[state]:,}" if counts[state] else "" for state in State)
        lines.append(f"| {layer} | {len(files)} of {planned} | {cells} |")
    return "\n".join(lines)


def _optional_folders(report: Audit) -> list[str]:
    """Return the optional folders that have files, or for which the settings of the last run ask."""
    wanted: tuple[str, ...] = ()
    with suppress(LabelingError):  # no run, or settings of another version
        wanted = settings_of(str(report.store.root)).optional_folders
    return [folder for folder in OPTIONAL if folder in wanted or report.files[folder]]


def funnel_text(root: str) -> str:
    """Return the funnel of a dataset as text: see `funnel_table`."""
    return funnel_table(funnel(root))


def funnel_table(rows: Sequence[FunnelRow]) -> str:
    """Return the number of input URLs by verdict, a line per reason, or a note that no shard is finished."""
    if not rows:
        return "No shard is finished yet: the ledger is written last."
    total = sum(urls for *_, urls, _ in rows)
    width = max(len(reason) for _, _, reason, *_ in rows)
    lines = [f"{'URLs':>9}  {'share':>6}  {'state':<14} {'stage':<11} reason"]
    for state, stage, reason, urls, share in rows:
        lines.append(f"{urls:>9,}  {share:>6.1%}  {state.replace('_', ' '):<14} {stage:<11} {reason:<{width}}".rstrip())
    return "\n".join([*lines, f"{total:>9,}  100.0%  in all"])


def runs_table(root: str, last: int = 5) -> str:
    """Return a Markdown table of the last runs, each with its state and the time of its last record."""
    lines = ["| run | state | began | until | host |", "|---|---|---|---|---|"]
    for run in read_runs(storage_path(root))[-last:]:
        lines.append(f"| {' | '.join(str(run.get(key, '')) for key in ('name', 'state', 'began', 'until', 'host'))} |")
    return "\n".join(lines)
