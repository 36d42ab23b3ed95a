"""The command line: `subject-diffusion VERB`. Each verb imports what it needs when it runs, so that help is quick."""

import os
import sys
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from flows.ablations import ablations
from flows.cutout import cutout
from flows.evaluate import app as evaluate_app
from flows.exchange import export_dataset, import_dataset
from flows.exit_codes import exit_on_expected_error, exit_on_storage_error
from flows.explore import explore
from flows.generate import generate
from flows.openimages_list import openimages
from flows.options import ConfigOption, RootArgument, SetOption
from flows.plan import plan
from flows.remove import remove
from flows.report import report
from flows.score import app as score_app
from flows.serve import serve
from flows.validate import validate
from flows.weights import app as weights_app
from infra.config import load
from infra.logs import setup_logs
from infra.precision import Precision
from model.config import Recompute

app = typer.Typer(
    help="Subject-Diffusion: from image URLs to a labelled dataset, and from the dataset to personalised images.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
)
evaluate_app.command()(ablations)
evaluate_app.command()(openimages)
app.add_typer(evaluate_app, name="evaluate")
app.add_typer(score_app, name="score")
app.add_typer(weights_app, name="weights")


class Preset(StrEnum):
    """Settings of a published model, in infra/configs."""

    PAPER = "paper"
    OFFICIAL = "official"


@app.command()
def build(config: ConfigOption = None, set_: SetOption = None) -> None:
    """Make a dataset: download, caption, nouns, boxes, masks, rules. Resumes where an earlier run stopped.

    Runs in this process, or as a flow run of the Prefect server that PREFECT_API_URL names.
    """
    from flows.experiment import Experiment

    setup_logs()
    with exit_on_expected_error():
        labeling = load(Experiment, config, set_ or ()).labeling
        if os.environ.get("PREFECT_API_URL"):
            from flows.build_sdd import build_sdd

            build_sdd(labeling)
        else:
            from labeling.build import LocalTaskRunner
            from labeling.build import build as build_here

            build_here(labeling, LocalTaskRunner())
        from flows.status import funnel_text

        typer.echo(f"\n{labeling.root}\n{funnel_text(labeling.root)}")


@app.command()
def status(
    root: RootArgument,
    deep: Annotated[
        bool, typer.Option("--deep", help="Read every file and compare it with its checksum. Takes as long as a copy.")
    ] = False,
) -> None:
    """Show the progress of a dataset, the verdicts of its URLs, and the faults of its files.

    Compares names, sizes and footers of all files. Exits with code 1 if files are missing, damaged, swapped or of
    another dataset, and names each on standard error.
    """
    from flows.status import print_status
    from labeling.sdd.query import refuse_no_dataset

    with exit_on_storage_error(root):
        refuse_no_dataset(root)
        if not print_status(root, deep):
            raise typer.Exit(1)


@app.command()
def inspect(
    root: RootArgument,
    sql: Annotated[
        str | None,
        typer.Argument(help="Statements, separated by `;`. Without them, those of standard input, or a prompt."),
    ] = None,
    rows: Annotated[
        int | None, typer.Option(min=0, help="Rows printed at most; 0 prints all.  [default: 40 of a table, else all]")
    ] = None,
    columns: Annotated[
        int | None,
        typer.Option(min=0, help="Columns printed at most; 0 prints all.  [default: as many as fit the terminal]"),
    ] = None,
    csv: Annotated[bool, typer.Option("--csv", help="Print CSV: a header and one line per row.")] = False,
    json: Annotated[bool, typer.Option("--json", help="Print JSON: an array of objects, one per row.")] = False,
    unsafe: Annotated[
        bool, typer.Option("--unsafe", help="Let SQL write files, read others than the dataset's, load extensions.")
    ] = False,
) -> None:
    """Query a dataset with DuckDB: views sdd, entities, labels, candidates, ledger, funnel, hosts and more.

    Reads only. Keys are printed as hex(key); WHERE key = from_hex('...') finds an image by its key.
    """
    from flows.sql import Format, Output, prompt, run
    from labeling.sdd.query import LayerChecks, connect, refuse_no_dataset

    if csv and json:
        raise typer.BadParameter("give one of --csv and --json")
    output = Output(Format.CSV if csv else Format.JSON if json else Format.TABLE, rows, columns)
    with exit_on_storage_error(root):
        refuse_no_dataset(root)
        session = connect(root, unsafe=unsafe)
        checks = LayerChecks(session, root)
        if sql is None and sys.stdin.isatty():
            prompt(session, output, unsafe=unsafe, checks=checks)
        elif not run(session, sys.stdin.read() if sql is None else sql, output, unsafe=unsafe, checks=checks):
            raise typer.Exit(2)


@app.command()
def picture(
    root: RootArgument,
    file: Annotated[str, typer.Argument(help="File to write: PNG, JPEG or WebP, by its suffix.")],
    count: Annotated[int, typer.Option(min=1, max=1000, help="Images at most.")] = 12,
    columns: Annotated[int, typer.Option(min=1, max=100, help="Images in a row of the picture.")] = 4,
) -> None:
    """Draw the first images of a dataset with their captions, boxes and masks."""
    from labeling.sdd.picture import contact_sheet, read_sheet_rows, save

    with exit_on_storage_error(root):
        save(contact_sheet(read_sheet_rows(root, count), columns), file)
        typer.echo(file)


@app.command()
def train(
    config: ConfigOption = None,
    set_: SetOption = None,
    resume: Annotated[
        str | None,
        typer.Option(
            metavar="latest|latest-good|PATH",
            help="Resume from the run's last checkpoint, from the last undamaged one, or from this folder.",
        ),
    ] = None,
    here: Annotated[bool, typer.Option("--here", help="Train with one worker in this process, without Ray.")] = False,
) -> None:
    """Train a model on a dataset, on the Ray cluster that RAY_ADDRESS names or on one that this machine starts."""
    setup_logs()  # before the libraries that it silences are imported
    from flows.training_evaluation import evaluator_maker
    from training.config import TrainingJob
    from training.job import run

    with exit_on_expected_error():
        job = load(TrainingJob, config, set_ or ())
        run(job, resume, here, evaluator_maker(job))


@app.command()
def cache(
    config: ConfigOption = None,
    set_: SetOption = None,
    here: Annotated[bool, typer.Option("--here", help="Run in this process, without Ray.")] = False,
    rebuild: Annotated[bool, typer.Option("--rebuild", help="Replace stale and damaged files.")] = False,
) -> None:
    """Encode a dataset's pictures ahead of training, as `training.data.cache` sets it. Resumes after a stop."""
    setup_logs()  # before the libraries that it silences are imported
    from training.cache.job import make_cache
    from training.config import TrainingJob

    with exit_on_expected_error():
        make_cache(load(TrainingJob, config, set_ or ()), here, rebuild)


@app.command()
def export(
    checkpoint: Annotated[Path, typer.Argument(help="Folder of a checkpoint: OUT/checkpoints/step-…")],
    folder: Annotated[Path, typer.Argument(help="Folder to write; must not exist yet.")],
    half: Annotated[bool, typer.Option("--half", help="Write float16: half as large.")] = False,
) -> None:
    """Write a checkpoint's model as a folder that generates images."""
    setup_logs()
    from training.export import export as export_model

    with exit_on_expected_error():
        export_model(checkpoint, folder, half)


app.command()(cutout)
app.command("import")(import_dataset)
app.command()(export_dataset)
app.command()(explore)
app.command()(plan)
app.command()(report)
app.command()(generate)
app.command()(serve)
app.command()(validate)
app.command()(remove)


@app.command()
def settings(
    table: Annotated[
        str | None, typer.Argument(metavar="[TABLE]", help="One table with the tables inside it: labeling.download")
    ] = None,
    markdown: Annotated[
        bool, typer.Option("--markdown", help="Print the reference page of the documentation.")
    ] = False,
) -> None:
    """Print every setting with its default, type and explanation."""
    from flows.settings import settings_markdown, settings_text

    with exit_on_expected_error():
        typer.echo(settings_markdown() if markdown else settings_text(table))


@app.command()
def describe(
    preset: Annotated[
        Preset | None, typer.Option(help="Settings of a published model.  [default: paper]", show_default=False)
    ] = None,
    config: ConfigOption = None,
    set_: SetOption = None,
    batch: Annotated[int, typer.Option(min=1, help="Images of a training step on one GPU (App. A: 12).")] = 12,
    subjects: Annotated[int, typer.Option(min=1, help="Subjects of each image.")] = 2,
    workers: Annotated[int, typer.Option(min=1, help="GPUs that train together, for the memory of each.")] = 8,
    recompute: Annotated[Recompute, typer.Option(help="As training.recompute.")] = Recompute.ACTIVATIONS,
    precision: Annotated[Precision, typer.Option(help="As training.precision.")] = Precision.BFLOAT16,
) -> None:
    """Print parameters, FLOPs and GPU memory of a model's settings, without allocating any of it."""
    from model.describe import StepShape, describe_settings

    if preset and config:
        raise typer.BadParameter("give one of --preset and --config")
    with exit_on_expected_error(ValueError, OSError):
        step = StepShape(batch, subjects, workers, recompute, precision)
        typer.echo(describe_settings(config or preset or Preset.PAPER, set_ or (), step))


@app.command()
def serve_world(
    folder: Annotated[Path, typer.Argument(help="Folder of the world: scenes, their list and their truth.")],
    count: Annotated[int, typer.Option(min=1, help="Scenes of a new world.")] = 300,
    seed: Annotated[int, typer.Option(min=0, help="Seed of a new world.")] = 0,
    port: Annotated[
        int, typer.Option(min=0, max=65535, help="Port in the URLs of a new world; 0 takes any free one.")
    ] = 8601,
) -> None:
    """Serve the miniature world over HTTP on this machine until Ctrl-C; write it first if the folder has none."""
    from miniature.world.serve import serve_world as serve

    with exit_on_expected_error():
        serve(folder, count, seed, port)


@app.command()
def demo(
    config: Annotated[
        str, typer.Option("--config", help="Settings: a TOML file, or a name in infra/configs.")
    ] = "demo",
    set_: SetOption = None,
    scenes: Annotated[int, typer.Option(help="Scenes of the world, if it is not written yet.")] = 300,
    seed: Annotated[int, typer.Option(help="Seed of the scenes.")] = 0,
    labels_only: Annotated[bool, typer.Option("--labels-only", help="Stop before the training.")] = False,
) -> None:
    """Compose scenes, serve them over HTTP, label them with small networks, score the labels and train on them."""
    setup_logs()  # before the libraries that it silences are imported
    from flows.demo import demo as run_demo
    from flows.experiment import DemoExperiment

    with exit_on_expected_error():
        run_demo(load(DemoExperiment, config, set_ or ()), scenes, seed, labels_only)


def main() -> None:
    """Run the command line: the entry point of `python -m flows.cli`."""
    sys.exit(app())


if __name__ == "__main__":
    main()
