"""`subject-diffusion import` and `export-dataset`: datasets in the formats of other programs."""

import json
from pathlib import Path
from typing import Annotated

import typer

from flows.exit_codes import exit_on_expected_error, exit_on_storage_error
from flows.options import ConfigOption, RootArgument, SetOption
from infra.config import load
from infra.logs import setup_logs
from labeling.exchange.formats import ExportFormat, ImportFormat

_ANY_SIZE = "labeling.download.min_side_px=0"
"""Default of an import: its images were chosen already."""


def import_dataset(
    source: Annotated[Path, typer.Argument(help="Folder to import.")],
    root: RootArgument,
    format_: Annotated[ImportFormat, typer.Option("--format", help="Format of the folder.")],
    config: ConfigOption = None,
    set_: SetOption = None,
) -> None:
    """Make a dataset of local images, with the captions that they have. Resumes where an earlier import stopped.

    Images of every size are kept unless --set labeling.download.min_side_px says otherwise.
    """
    from flows.experiment import Experiment
    from labeling.exchange.import_source import SETTINGS, import_folder

    setup_logs()
    with exit_on_expected_error():
        overrides = (f"labeling.root={json.dumps(root)}", _ANY_SIZE, *(set_ or ()))
        labeling = load(Experiment, config, overrides).labeling
        counts = import_folder(source, labeling)
        typer.echo(", ".join(f"{count:,} {state.replace('_', ' ')}" for state, count in counts.items()))
        typer.echo(f"Label them:  subject-diffusion build --config {Path(root) / SETTINGS}")


def export_dataset(
    root: RootArgument,
    out: Annotated[Path, typer.Argument(help="Folder to write; must not exist yet.")],
    format_: Annotated[ExportFormat, typer.Option("--format", help="Format to write.")],
    val_share: Annotated[
        float, typer.Option("--val-share", min=0, max=1, help="Share of the images for validation (yolo only).")
    ] = 0.1,
) -> None:
    """Write a dataset in the format of another program. Resumes where an earlier export stopped."""
    from labeling.exchange.export import export_dataset as export
    from labeling.sdd.query import refuse_no_dataset

    with exit_on_storage_error(root):
        refuse_no_dataset(root)
        images = export(root, out, format_, val_share)
        typer.echo(f"{out}: {images:,} images")
