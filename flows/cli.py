"""The command line: `subject-diffusion VERB`. Verbs import what they need when they run, so that help is quick."""

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer

from infra.config import SettingsError, load
from infra.logs import setup_logs
from infra.redaction import redact
from labeling.errors import LabelingError
from model.errors import ModelError
from training.errors import TrainingError

app = typer.Typer(
    help="Subject-Diffusion: from image URLs to a labelled dataset, and from the dataset to personalised images.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
ConfigOption = Annotated[
    str | None, typer.Option("--config", help="Settings: a TOML file, or a name in infra/configs.")
]
SetOption = Annotated[
    list[str] | None, typer.Option("--set", metavar="TABLE.KEY=VALUE", help="Override a setting; may be repeated.")
]
RootArgument = Annotated[str, typer.Argument(help="Folder of the dataset: a path or an fsspec URL.")]


@contextmanager
def told_in_one_line() -> Iterator[None]:
    """Errors that somebody has to act on end the program with their message alone, and exit code 2."""
    try:
        yield
    except (SettingsError, LabelingError, ModelError, TrainingError) as error:
        typer.secho(f"error: {redact(str(error))}", fg="red", err=True)
        raise typer.Exit(2) from None


@contextmanager
def looking_at(root: str) -> Iterator[None]:
    """As `told_in_one_line`, where a file that cannot be read is the storage's fault."""
    with told_in_one_line():
        try:
            yield
        except OSError as error:
            raise LabelingError(f"{root} cannot be read ({error}): see to the storage") from error


@app.command()
def build(config: ConfigOption = None, set_: SetOption = None) -> None:
    """Make the dataset: download, caption, nouns, boxes, masks, rules. Goes on where an earlier run stopped.

    Runs in this process; with PREFECT_API_URL set it is a flow run of that Prefect server.
    """
    from flows.experiment import Experiment

    setup_logs()
    with told_in_one_line():
        labeling = load(Experiment, config, set_ or ()).labeling
        if os.environ.get("PREFECT_API_URL"):
            from flows.build_sdd import build_sdd

            build_sdd(labeling)
        else:
            from labeling.build import LocalCaller
            from labeling.build import build as build_here

            build_here(labeling, LocalCaller())
        from flows.status import funnel_text

        typer.echo(f"\n{labeling.root}\n{funnel_text(labeling.root)}")


@app.command()
def status(
    root: RootArgument,
    deep: Annotated[
        bool, typer.Option("--deep", help="Read every file and compare it with its checksum. Takes as long as a copy.")
    ] = False,
) -> None:
    """Show how far a dataset is, what became of its URLs, and what is wrong with its files.

    Names, sizes and footers of all files are compared with each other. Exit code 1: files are missing, damaged,
    swapped or of another dataset; each is named on standard error.
    """
    from flows.status import show
    from labeling.sdd.query import refuse_no_dataset

    with looking_at(root):
        refuse_no_dataset(root)
        if not show(root, deep):
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

    Changes nothing. Keys are printed as hex(key); find an image by its key with WHERE key = from_hex('...').
    """
    from flows.sql import Format, Output, prompt, run
    from labeling.sdd.query import connect, refuse_no_dataset

    if csv and json:
        raise typer.BadParameter("give one of --csv and --json")
    output = Output(Format.CSV if csv else Format.JSON if json else Format.TABLE, rows, columns)
    with looking_at(root):
        refuse_no_dataset(root)
        session = connect(root, unsafe=unsafe)
        if sql is None and sys.stdin.isatty():
            prompt(session, output, unsafe=unsafe)
        elif not run(session, sys.stdin.read() if sql is None else sql, output, unsafe=unsafe):
            raise typer.Exit(2)


@app.command()
def picture(
    root: RootArgument,
    file: Annotated[str, typer.Argument(help="Where to write it: PNG, JPEG or WebP by its suffix.")],
    count: Annotated[int, typer.Option(min=1, max=1000, help="Images at most.")] = 12,
    columns: Annotated[int, typer.Option(min=1, max=100, help="Images in a row of the picture.")] = 4,
) -> None:
    """Draw the first images of a dataset with their captions, boxes and masks."""
    from labeling.sdd.picture import contact_sheet, read_sheet_rows, save

    with looking_at(root):
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
            help="Go on from the run's last checkpoint, from the last that is not damaged, or from this one.",
        ),
    ] = None,
    here: Annotated[bool, typer.Option("--here", help="One worker in this process, without Ray.")] = False,
) -> None:
    """Train a model on a dataset. Runs on the Ray cluster of RAY_ADDRESS, or on one of this machine."""
    setup_logs()  # before the libraries that it silences are imported
    from training.config import TrainingJob
    from training.job import run

    with told_in_one_line():
        run(load(TrainingJob, config, set_ or ()), resume, here)


@app.command()
def cache(
    config: ConfigOption = None,
    set_: SetOption = None,
    here: Annotated[bool, typer.Option("--here", help="In this process, without Ray.")] = False,
    rebuild: Annotated[bool, typer.Option("--rebuild", help="Make stale or damaged files anew.")] = False,
) -> None:
    """Encode a dataset's pictures ahead of training, as `training.data.cache` says. Goes on where it was stopped."""
    setup_logs()  # before the libraries that it silences are imported
    from training.cache.job import make_cache
    from training.config import TrainingJob

    with told_in_one_line():
        make_cache(load(TrainingJob, config, set_ or ()), here, rebuild)


@app.command()
def export(
    checkpoint: Annotated[Path, typer.Argument(help="Folder of a checkpoint: OUT/checkpoints/step-…")],
    folder: Annotated[Path, typer.Argument(help="Where the model is to be; must not be there yet.")],
    half: Annotated[bool, typer.Option("--half", help="In float16: half as large.")] = False,
) -> None:
    """Write a checkpoint's model as a folder that generates images."""
    setup_logs()
    from training.export import export as export_model

    with told_in_one_line():
        export_model(checkpoint, folder, half)


@app.command()
def settings(
    table: Annotated[
        str | None, typer.Argument(metavar="[TABLE]", help="One table with the tables inside it: labeling.download")
    ] = None,
    markdown: Annotated[bool, typer.Option("--markdown", help="As the documentation's reference page.")] = False,
) -> None:
    """Print every setting with its default, its type and what it does."""
    from flows.settings import settings_markdown, settings_text

    with told_in_one_line():
        typer.echo(settings_markdown() if markdown else settings_text(table))


@app.command()
def demo(
    config: Annotated[
        str, typer.Option("--config", help="Settings: a TOML file, or a name in infra/configs.")
    ] = "demo",
    set_: SetOption = None,
    scenes: Annotated[int, typer.Option(help="Scenes in the world, where it is not written yet.")] = 300,
    seed: Annotated[int, typer.Option(help="Of the scenes.")] = 0,
    labels_only: Annotated[bool, typer.Option("--labels-only", help="Do not go on to train on them.")] = False,
) -> None:
    """Try it all: compose scenes, serve them over HTTP, label them with small networks, score the labels, train."""
    setup_logs()  # before the libraries that it silences are imported
    from flows.demo import demo as run_demo
    from flows.experiment import DemoExperiment
    from miniature.world.serve import WorldError

    with told_in_one_line():
        try:
            run_demo(load(DemoExperiment, config, set_ or ()), scenes, seed, labels_only)
        except WorldError as error:
            raise LabelingError(str(error)) from None


def main() -> None:
    """The entry point of `python -m flows.cli`."""
    sys.exit(app())


if __name__ == "__main__":
    main()
