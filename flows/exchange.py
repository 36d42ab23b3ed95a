"""`subject-diffusion export-dataset`: a dataset in the formats of other programs."""

from pathlib import Path
from typing import Annotated

import typer

from flows.exit_codes import exit_on_storage_error
from flows.options import RootArgument
from labeling.exchange.formats import ExportFormat


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

    with exit_on_storage_error(str(root)):
        refuse_no_dataset(root)
        images = export(root, out, format_, val_share)
        typer.echo(f"{out}: {images:,} images")
