"""Options of `subject-diffusion generate`."""

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

_SUBJECTS, _SAMPLING, _PHOTO, _MANY, _MACHINE = (
    "Subjects",
    "Sampling",
    "Into a photo",
    "Many images",
    "Model and machine",
)
"""Panels of the help."""
Texts = list[str] | None


class Executor(StrEnum):
    """Where the jobs of a file run."""

    LOCAL = "local"
    """In this process."""
    RAY = "ray"
    """On a Ray cluster."""


Prompt = Annotated[str | None, typer.Option(help="Text of the image; may be empty.")]
Out = Annotated[Path, typer.Option(help="Folder of the images; created if missing.")]
Embed = Annotated[
    bool, typer.Option("--embed-subjects", help="Keep the pictures of the subjects in the file of each image.")
]
Subject = Annotated[
    Texts,
    typer.Option(
        metavar="FILE[,FILE…]:LABEL",
        help="Picture of a subject, or several of the same, and its name. May be repeated.",
        rich_help_panel=_SUBJECTS,
    ),
]
Mask = Annotated[
    Texts,
    typer.Option(
        metavar="FILE[,FILE…]",
        help="Mask of a subject in its picture: the first for the first --subject, and so on; - for none.",
        rich_help_panel=_SUBJECTS,
    ),
]
Box = Annotated[
    Texts,
    typer.Option(
        metavar="X0,Y0,X1,Y1",
        help="Box of a subject in the new image, in shares of it, 0 to 1. Repeated like --mask.",
        rich_help_panel=_SUBJECTS,
    ),
]
Place = Annotated[
    Texts,
    typer.Option(
        metavar="FILE", help="Mask of a subject in the new image. Repeated like --mask.", rich_help_panel=_SUBJECTS
    ),
]
Strength = Annotated[
    Texts,
    typer.Option(
        metavar="NUMBER",
        help="Weight of a subject's picture; 0 ignores it. Repeated like --mask.  [default: 1]",
        rich_help_panel=_SUBJECTS,
    ),
]
Layout = Annotated[
    str | None,
    typer.Option(
        metavar="auto|detected|random|free|given",
        help="Rule that places subjects without a box.  [default: auto]",
        rich_help_panel=_SUBJECTS,
    ),
]
Cutout = Annotated[
    str,
    typer.Option(
        metavar="CONFIG",
        help="Settings of the networks that cut a subject out of a picture without transparency and mask.",
        rich_help_panel=_SUBJECTS,
    ),
]
Seed = Annotated[int | None, typer.Option(help="Seed of the first image.  [default: 0]", rich_help_panel=_SAMPLING)]
Steps = Annotated[int | None, typer.Option(help="Denoising steps.  [default: the model's]", rich_help_panel=_SAMPLING)]
Scheduler = Annotated[
    str | None,
    typer.Option(help="Scheduler of diffusers, such as DDIM.  [default: the model's]", rich_help_panel=_SAMPLING),
]
Quick = Annotated[bool, typer.Option("--quick", help="20 steps of DPM-Solver++.", rich_help_panel=_SAMPLING)]
TextGuidance = Annotated[
    float | None, typer.Option(help="Scale of the text.  [default: the model's]", rich_help_panel=_SAMPLING)
]
ImageGuidance = Annotated[
    float | None, typer.Option(help="Scale of the subjects.  [default: the model's]", rich_help_panel=_SAMPLING)
]
GuidanceRescale = Annotated[
    float | None,
    typer.Option(
        help="Share by which guidance is kept from raising the contrast.  [default: 0]", rich_help_panel=_SAMPLING
    ),
]
Interpolation = Annotated[
    float | None,
    typer.Option(
        help="Share of the noise schedule, from its end, that uses the text alone (Eq. 4).", rich_help_panel=_SAMPLING
    ),
]
Negative = Annotated[
    str | None, typer.Option(metavar="TEXT", help="Text that guidance leads away from.", rich_help_panel=_SAMPLING)
]
Height = Annotated[
    int | None, typer.Option(help="Height in pixels.  [default: the model's]", rich_help_panel=_SAMPLING)
]
Width = Annotated[int | None, typer.Option(help="Width in pixels.  [default: the model's]", rich_help_panel=_SAMPLING)]
Into = Annotated[
    Path | None,
    typer.Option(metavar="PHOTO", help="Photo to generate into; boxes are shares of it.", rich_help_panel=_PHOTO),
]
Region = Annotated[
    Path | None,
    typer.Option(
        metavar="MASK",
        help="Part of the photo to generate, white in this mask.  [default: the boxes]",
        rich_help_panel=_PHOTO,
    ),
]
Feather = Annotated[
    int | None,
    typer.Option(
        metavar="PIXELS",
        help="Width of the border in which photo and image blend.  [default: 8]",
        rich_help_panel=_PHOTO,
    ),
]
Count = Annotated[
    int | None,
    typer.Option("--n", help="Images of the prompt, with following seeds.  [default: 1]", rich_help_panel=_MANY),
]
Jobs = Annotated[
    Path | None,
    typer.Option(
        metavar="FILE",
        help="File with a job as JSON on each line; other options are its defaults.",
        rich_help_panel=_MANY,
    ),
]
Where = Annotated[Executor, typer.Option(help="Where the jobs of --jobs run.", rich_help_panel=_MANY)]
Workers = Annotated[
    int | None,
    typer.Option(
        min=1,
        help="Workers on Ray.  [default: one for each GPU, without GPUs one for each CPU]",
        rich_help_panel=_MANY,
    ),
]
From = Annotated[
    Path | None,
    typer.Option("--from", metavar="IMAGE", help="Make an image again that this command made.", rich_help_panel=_MANY),
]
Model = Annotated[
    Path | None,
    typer.Option(metavar="FOLDER", help="The model.  [default: the small model]", rich_help_panel=_MACHINE),
]
Device = Annotated[
    str | None, typer.Option(help="cpu, cuda, cuda:1.  [default: cuda if there is a GPU]", rich_help_panel=_MACHINE)
]
Precision = Annotated[
    str | None,
    typer.Option(
        "--dtype",
        metavar="float32|float16|bfloat16",
        help="Precision of the weights.  [default: float32]",
        rich_help_panel=_MACHINE,
    ),
]
BatchSize = Annotated[int, typer.Option("--batch", help="Images computed at once.", rich_help_panel=_MACHINE)]
