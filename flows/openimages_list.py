"""`subject-diffusion evaluate openimages`: the open-domain test list, chosen from Open Images' published boxes."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from flows.exit_codes import exit_on_expected_error
from infra.storage import publish_bytes, storage_path

if TYPE_CHECKING:
    from evaluation.benchmarks.benchmark import Benchmark

_DOWNLOADS = ".txt"


def openimages(
    classes: Annotated[Path, typer.Argument(help="Names of the classes: class-descriptions-boxable.csv.")],
    boxes: Annotated[
        list[str],
        typer.Option(
            metavar="SPLIT=CSV", help="Boxes of a split, as test=test-annotations-bbox.csv; once for each split."
        ),
    ],
    seed: Annotated[int, typer.Option(min=0, help="Seed of the choice of classes and images.")] = 0,
    class_count: Annotated[int, typer.Option("--class-count", min=1, help="Number of classes.")] = 296,
    images: Annotated[int, typer.Option(min=1, help="Number of images to generate for each prompt.")] = 4,
    out: Annotated[Path, typer.Option(metavar="FILE.json", help="The list; a benchmark of this path.")] = Path(
        "openimages.json"
    ),
) -> None:
    """Choose two entities of each of 296 classes from Open Images' boxes, as the paper's open-domain test does.

    Beside the list, a text file names the images to download, for Open Images' own downloader.
    """
    from evaluation.benchmarks.benchmark_file import write_benchmark
    from evaluation.benchmarks.openimages import OpenImagesRule, build_openimages_benchmark

    rule = OpenImagesRule(seed=seed, classes=class_count, images_per_case=images)
    with exit_on_expected_error():
        benchmark = build_openimages_benchmark(_boxes_by_split(boxes), classes, rule)
        write_benchmark(benchmark, out)
        publish_bytes(storage_path(out.with_suffix(_DOWNLOADS)), _downloads(benchmark).encode())
    typer.echo(f"{benchmark.title}: {len(benchmark.subjects):,} subjects, {benchmark.image_count:,} images to generate")
    for path in (out, out.with_suffix(_DOWNLOADS)):
        typer.echo(path)


def _boxes_by_split(options: list[str]) -> dict[str, Path]:
    """Return the CSV of each split.

    Raises:
        typer.BadParameter: an option names no split, or a split occurs twice.
    """
    files: dict[str, Path] = {}
    for option in options:
        split, equals, path = option.partition("=")
        if not (split and equals and path):
            raise typer.BadParameter(f"--boxes {option}: give SPLIT=CSV, as test=test-annotations-bbox.csv")
        if split in files:
            raise typer.BadParameter(f"--boxes {option}: the split {split} is given twice")
        files[split] = Path(path)
    return files


def _downloads(benchmark: "Benchmark") -> str:
    """Return the input images as lines `SPLIT/ID`, each once."""
    images = {str(Path(subject.input_image).with_suffix("")) for subject in benchmark.subjects.values()}
    return "".join(f"{image}\n" for image in sorted(images))
