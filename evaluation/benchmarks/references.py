"""Files of a benchmark's real images in a folder of the user."""

from collections.abc import Mapping
from pathlib import Path

from evaluation.benchmarks.benchmark import Benchmark
from evaluation.errors import ImagesError

_NAMED = 10
"""Number of missing files that a message names."""


def reference_files(benchmark: Benchmark, folder: Path) -> Mapping[str, tuple[Path, ...]]:
    """Return the files of all real images by subject, in the order of `Subject.images`.

    Args:
        folder: folder of the benchmark's images; for DreamBench the one with `backpack/00.jpg`.

    Raises:
        ImagesError: the folder or files in it are missing; the message names the first ten.
    """
    if not folder.is_dir():
        raise ImagesError(f"{folder}: no such folder; give the folder of the images of {benchmark.name}")
    files = {name: tuple(folder / image for image in subject.images) for name, subject in benchmark.subjects.items()}
    missing = [file for own in files.values() for file in own if not file.is_file()]
    if missing:
        names = ", ".join(str(file.relative_to(folder)) for file in missing[:_NAMED])
        more = f" and {len(missing) - _NAMED} more" if len(missing) > _NAMED else ""
        raise ImagesError(
            f"{folder} lacks {len(missing)} of the {sum(map(len, files.values()))} images of {benchmark.name}: "
            f"{names}{more}; give the folder that holds {missing[0].relative_to(folder)}"
        )
    return files
