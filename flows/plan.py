"""`subject-diffusion plan`: what a build of a list will take."""

import json
from pathlib import Path
from typing import Annotated

import typer

from flows.exit_codes import exit_on_expected_error
from flows.options import ConfigOption, SetOption
from infra.config import load
from infra.logs import setup_logs
from infra.storage import publish_bytes, storage_path


def plan(
    urls: Annotated[int, typer.Option("--urls", min=1, help="Length of the list to plan for.")],
    config: ConfigOption = None,
    set_: SetOption = None,
    pilot: Annotated[int, typer.Option("--pilot", min=100, help="URLs of the pilot, drawn from labeling.urls.")] = 1000,
    from_: Annotated[
        str | None,
        typer.Option("--from", help="Folder of a build whose runs are the pilot, instead of running one."),
    ] = None,
    cpu_price: Annotated[float | None, typer.Option(min=0, help="Price of a CPU-hour.")] = None,
    gpu_price: Annotated[float | None, typer.Option(min=0, help="Price of a GPU-hour.")] = None,
    out: Annotated[Path | None, typer.Option("--out", help="File to write the plan to, as JSON.")] = None,
) -> None:
    """Estimate time, CPU-hours, GPU-hours, storage and cost of a build, with intervals, and name its bottleneck.

    Runs a pilot on this machine beside labeling.root, with the settings of the build, unless --from names a build.
    """
    from flows.experiment import Experiment
    from labeling.build import LocalTaskRunner, build
    from labeling.plan.estimate import estimate
    from labeling.plan.measured import measure, settings_of
    from labeling.plan.pilot import run_pilot
    from labeling.plan.text import plan_record, plan_text

    setup_logs()
    with exit_on_expected_error():
        given = config is not None or bool(set_)
        labeling = load(Experiment, config, set_ or ()).labeling if given or from_ is None else settings_of(from_)
        root = from_ or run_pilot(labeling, pilot, lambda settings: build(settings, LocalTaskRunner()))
        planned = estimate(measure(root), labeling, urls)
        if out is not None:
            record = plan_record(planned, cpu_price, gpu_price)
            publish_bytes(storage_path(out), json.dumps(record, indent=2).encode())
        typer.echo(plan_text(planned, cpu_price, gpu_price))
