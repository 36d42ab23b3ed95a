"""`subject-diffusion cutout`: one subject of a photo, on a transparent background."""

import logging
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO, TYPE_CHECKING, Annotated

import typer

from flows.exit_codes import exit_on_expected_error
from flows.options import SetOption
from infra.logs import setup_logs
from labeling.errors import CutoutError

if TYPE_CHECKING:
    from labeling.cutout import Cutout, Cutter

PREVIEW_SUFFIXES = (".png", ".jpg", ".jpeg", ".webp")


def cutout(
    photo: Annotated[Path, typer.Argument(help="Photo: JPEG, PNG, WebP, GIF, AVIF, BMP or TIFF.")],
    label: Annotated[str, typer.Option(help="Name of the subject in one or a few words, such as dog.")],
    box: Annotated[
        str | None,
        typer.Option(metavar="X0,Y0,X1,Y1", help="Box around the subject in shares of the photo, 0 to 1."),
    ] = None,
    mask: Annotated[
        Path | None, typer.Option(help="Mask of the subject: white inside it, or transparent around it.")
    ] = None,
    candidate: Annotated[
        int | None,
        typer.Option(min=1, help="Number of the box among those that the detector finds.  [default: 1, the best]"),
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help="PNG file to write.  [default: the photo's name with .cutout.png]")
    ] = None,
    preview: Annotated[
        Path | None, typer.Option(help="Also write the photo with outline, box and numbered candidates.")
    ] = None,
    config: Annotated[
        str, typer.Option("--config", help="Settings of the networks: a TOML file, or a name in infra/configs.")
    ] = "demo",
    set_: SetOption = None,
) -> None:
    """Cut a subject out of a photo: a PNG that is transparent around it.

    A photo with transparency and a mask are used as they are. Otherwise Grounding DINO finds the label, or `--box`
    says where it is, and SAM segments it. `--preview` shows what was found; `--candidate` or `--box` corrects it.
    """
    setup_logs(logging.WARNING)  # before the libraries that it silences are imported
    from flows.cutout_networks import load_cutter, naming_small_networks
    from labeling.cutout_preview import draw_cutout
    from labeling.photo import read_mask, read_photo
    from labeling.sdd.picture import save

    out = out or photo.parent / f"{photo.stem}.cutout.png"
    with exit_on_expected_error():
        _check_outputs(out, preview, [photo, *([mask] if mask else [])])
        cutter = load_cutter(config, set_ or ())
        with naming_small_networks(cutter):
            found = cutter.cut(
                read_photo(photo),
                label,
                mask=read_mask(mask) if mask else None,
                box=None if box is None else _numbers(box),
                candidate=candidate,
            )
        write_cutout(found, out)
        if preview:
            save(draw_cutout(found), str(preview))
    typer.echo("\n".join(_report(found, out, cutter)))


def _check_outputs(out: Path, preview: Path | None, inputs: Sequence[Path]) -> None:
    """Refuse outputs that cannot be written, or that would overwrite an input, before any network runs."""
    if out.suffix.lower() != ".png":
        raise CutoutError(f"--out {out}: a cut-out is transparent, which needs PNG: give a name in .png")
    if preview and preview.suffix.lower() not in PREVIEW_SUFFIXES:
        raise CutoutError(f"--preview {preview}: give a name in {', '.join(PREVIEW_SUFFIXES)}")
    taken = [file.resolve() for file in inputs]
    for option, file in (("--out", out), ("--preview", preview)):
        if file is None:
            continue
        if file.resolve() in taken:
            raise CutoutError(f"{option} {file} is also the photo, the mask or another output: give another name")
        if not file.parent.is_dir():
            raise CutoutError(f"{option} {file}: there is no folder {file.parent}: create it, or give another one")
        taken.append(file.resolve())


def _numbers(box: str) -> tuple[float, ...]:
    try:
        return tuple(float(side) for side in box.split(","))
    except ValueError:
        raise CutoutError(f"--box {box}: give four shares of the photo, 0 to 1, such as 0.1,0.3,0.5,0.9") from None


def write_cutout(found: "Cutout", out: Path) -> None:
    """Write the photo as a PNG that is transparent around the subject.

    Raises:
        CutoutError: the file cannot be written.
    """
    from PIL import Image

    from infra.storage import publish, storage_path

    def write(file: IO[bytes]) -> None:
        # A quarter of the default level's time, for a third more bytes.
        Image.fromarray(found.rgba()).save(file, "PNG", compress_level=1)

    try:
        publish(storage_path(out), write, replace=True)
    except OSError as error:
        raise CutoutError(f"--out {out} cannot be written ({error.strerror}): give another file") from error


def _report(found: "Cutout", out: Path, cutter: "Cutter") -> Iterator[str]:
    """Yield the lines that tell what was cut out, by what, and how to correct it."""
    from flows.cutout_networks import small_networks_remark
    from labeling.cutout import FoundBy, box_text

    how = {
        FoundBy.ALPHA: "from the photo's own transparency; no network ran",
        FoundBy.MASK: "from the mask; no network ran",
        FoundBy.BOX: "SAM's mask of the given box",
        FoundBy.DETECTOR: f"SAM's mask of the box that Grounding DINO found with score {found.score or 0:.2f}",
    }[found.found_by]
    yield f"{out}: {found.label}, {found.mask.mean():.1%} of the photo, in the box {box_text(found.box)}: {how}"
    if len(found.candidates) > 1:
        yield "Boxes that were found (--candidate NUMBER takes another one, --box your own):"
        for number, candidate in enumerate(found.candidates, start=1):
            chosen = "  chosen" if number == found.candidate else ""
            yield f"{number:>3}  {candidate.score:.2f}  {box_text(candidate.box)}{chosen}"
    if found.predicted_iou is not None and (remark := small_networks_remark(cutter)):
        yield remark
