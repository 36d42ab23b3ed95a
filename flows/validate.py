"""The verb `validate`: every invariant of a dataset's format, with the place of each fault."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

import typer
from tqdm import tqdm

from flows.exit_codes import exit_on_storage_error
from flows.options import RootArgument
from labeling.sdd.layers import FOLDERS
from labeling.sdd.schema import Layer

if TYPE_CHECKING:
    from labeling.validation.validate import Findings, Scope


def validate(
    root: RootArgument,
    layer: Annotated[
        list[Layer] | None,
        typer.Option("--layer", help="Check this layer; can be repeated.  [default: all]"),
    ] = None,
    fast: Annotated[
        bool, typer.Option("--fast", help="Read no images and no checksums: minutes instead of hours.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON: rows, checks and faults.")] = False,
    limit: Annotated[int, typer.Option(min=1, max=100_000, help="Faults of each check that are listed.")] = 20,
    workers: Annotated[
        int | None, typer.Option(min=1, max=1024, help="Processes.  [default: the cores of this machine]")
    ] = None,
) -> None:
    """Check every invariant of a dataset: keys, order, spans, boxes, masks, areas, scores, stamps, sums, images.

    Exits with code 1 if one is broken, and names shard, row and column on standard error. Memory does not grow with the
    dataset. `--json` lists all checks.
    """
    from labeling.sdd.query import refuse_no_dataset
    from labeling.validation.validate import Scope

    with exit_on_storage_error(root):
        refuse_no_dataset(root)
        scope = Scope(layers=tuple(layer or FOLDERS), pixels=not fast, kept_faults=limit)
        findings = _findings(root, scope, workers)
        typer.echo(json.dumps(_as_json(root, findings)) if as_json else _summary(root, findings))
        for fault in () if as_json else findings.faults:
            typer.secho(f"wrong: {fault}", fg="red", err=True)
        if findings.counts:
            raise typer.Exit(1)


def _findings(root: str, scope: Scope, workers: int | None) -> Findings:
    """Return the findings of a validation, and show its progress."""
    from labeling.validation.validate import validate

    with tqdm(desc="validating", unit="shard", disable=None) as bar:
        for findings in validate(root, scope, workers):
            bar.total = findings.shards
            bar.update(findings.done - bar.n)
    return findings


def _summary(root: str, findings: Findings) -> str:
    """Return the number of checked rows, and the number of faults of each check that found one."""
    from labeling.validation.validate import descriptions

    about = descriptions()
    rows = ", ".join(f"{findings.rows[layer]:,} of {layer}/" for layer in FOLDERS if findings.rows[layer])
    lines = [f"{root}: {findings.shards:,} shards, {len(about)} checks, rows: {rows or 'none'}"]
    lines += [f"{faults:>9,}  {check}: {about[check]}" for check, faults in findings.counts.most_common()]
    return "\n".join([*lines, f"{sum(findings.counts.values()):,} faults" if findings.counts else "no fault"])


def _as_json(root: str, findings: Findings) -> dict[str, object]:
    from labeling.validation.validate import descriptions

    return {
        "root": root,
        "shards": findings.shards,
        "rows": {str(layer): findings.rows[layer] for layer in findings.scope.layers},
        "checks": {name: {"about": about, "faults": findings.counts[name]} for name, about in descriptions().items()},
        "faults": [asdict(fault) for fault in findings.faults],
    }
