"""`subject-diffusion import` and `export-dataset`: datasets in the formats of other programs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from flows.exit_codes import exit_on_expected_error, exit_on_storage_error
from flows.options import ConfigOption, RootArgument, SetOption
from infra.config import load
from infra.logs import setup_logs
from labeling.exchange.formats import ExportFormat, ImportFormat

if TYPE_CHECKING:
    from labeling.config import LabelingConfig
    from labeling.exchange.import_source import LabelSource

_ANY_SIZE = "labeling.download.min_side_px=0"
"""Default of an import: its images were chosen already."""


def import_dataset(
    source: Annotated[
        Path,
        typer.Argument(
            help="folder: folder of the images; coco: file of the instances; openimages: of the boxes; label-studio: "
            "export of the project."
        ),
    ],
    root: RootArgument,
    format_: Annotated[ImportFormat, typer.Option("--format", help="Format of the source.")],
    images: Annotated[Path | None, typer.Option("--images", help="Folder of the images (coco, openimages).")] = None,
    captions: Annotated[
        Path | None,
        typer.Option("--captions", help="File of captions (coco, openimages). By default the captioner writes them."),
    ] = None,
    classes: Annotated[
        Path | None, typer.Option("--classes", help="File of the names of the classes (openimages).")
    ] = None,
    masks: Annotated[Path | None, typer.Option("--masks", help="File that lists the masks (openimages).")] = None,
    mask_images: Annotated[
        Path | None, typer.Option("--mask-images", help="Folder of the masks; that of their list by default.")
    ] = None,
    config: ConfigOption = None,
    set_: SetOption = None,
) -> None:
    """Make a dataset of local images, with the captions and labels that they have. Resumes where it stopped.

    Images of every size are kept unless --set labeling.download.min_side_px says otherwise. From label-studio,
    corrections of an existing dataset are read.
    """
    from evaluation.benchmarks.openimages import body_parts
    from flows.experiment import Experiment
    from labeling.exchange.coco_import import CocoFiles
    from labeling.exchange.openimages_import import OpenImagesFiles

    setup_logs()
    with exit_on_expected_error():
        if format_ is ImportFormat.LABEL_STUDIO:
            _import_corrections(source, root)
            return
        overrides = (f"labeling.root={json.dumps(root)}", _ANY_SIZE, *(set_ or ()))
        labeling = load(Experiment, config, overrides).labeling
        if format_ is ImportFormat.FOLDER:
            _import_folder(source, labeling)
            return
        folder = _required(images, "--images")
        if format_ is ImportFormat.COCO:
            _import_labels(folder, CocoFiles(source, captions), labeling)
        else:
            names = _required(classes, "--classes")
            files = OpenImagesFiles(source, names, folder, body_parts(), masks, mask_images, captions)
            _import_labels(folder, files, labeling)


def _import_corrections(source: Path, root: str) -> None:
    from labeling.exchange.label_studio_import import import_corrections
    from labeling.sdd.query import refuse_no_dataset

    refuse_no_dataset(root)
    counts = import_corrections(source, root)
    typer.echo(", ".join(f"{count:,} {action}" for action, count in counts.items()))


def _required(value: Path | None, option: str) -> Path:
    if value is None:
        raise typer.BadParameter(f"give {option} for this format")
    return value


def _import_folder(source: Path, labeling: LabelingConfig) -> None:
    from labeling.exchange.import_source import SETTINGS, import_folder

    counts = import_folder(source, labeling)
    typer.echo(", ".join(f"{count:,} {state.replace('_', ' ')}" for state, count in counts.items()))
    typer.echo(f"Label them:  subject-diffusion build --config {Path(labeling.root) / SETTINGS}")


def _import_labels(images: Path, source: LabelSource, labeling: LabelingConfig) -> None:
    from flows.status import funnel_text
    from labeling.exchange.import_source import import_labels

    import_labels(images, source, labeling)
    typer.echo(f"{labeling.root}\n{funnel_text(labeling.root)}")


def export_dataset(
    root: RootArgument,
    out: Annotated[Path, typer.Argument(help="Folder to write; must not exist yet.")],
    format_: Annotated[ExportFormat, typer.Option("--format", help="Format to write.")],
    val_share: Annotated[
        float, typer.Option("--val-share", min=0, max=1, help="Share of the images for validation (yolo only).")
    ] = 0.1,
    licence: Annotated[
        str, typer.Option("--licence", help="Licence of the collection in its card, such as cc-by-4.0 (hf only).")
    ] = "other",
    keys: Annotated[
        str | None,
        typer.Option(
            "--keys", metavar="FILE", help="Images to write: a text file with a key in each line, as explore saves it."
        ),
    ] = None,
) -> None:
    """Write a dataset in the format of another program. Resumes where an earlier export stopped."""
    from labeling.download.lists.exclusions import read_keys
    from labeling.exchange.export import export_dataset as export
    from labeling.sdd.query import refuse_no_dataset

    with exit_on_storage_error(root):
        refuse_no_dataset(root)
        selected = read_keys(keys, "--keys") if keys else None
        images = export(root, out, format_, val_share, licence, selected)
        typer.echo(f"{out}: {images:,} images")
