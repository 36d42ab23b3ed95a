"""The images of a benchmark, made by the pipeline: `FOLDER/cat2/03/0.png` is image 0, of seed 0, of case `cat2/03`.

All cases have the same seeds, so methods can be compared on the same noise. Images that exist are not made again; an
image of other settings is refused.
"""

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from evaluation.benchmarks.benchmark import Benchmark, Case
from evaluation.config import SampleConfig
from evaluation.scoring import References, input_index
from flows.evaluation.inputs import class_names
from flows.generation.errors import InvalidJob, OutputError
from flows.generation.job import parse_job
from flows.generation.jobs import Failure, ImageFile, JobLine, Outcome
from flows.generation.output import file_name
from flows.generation.png import read_png
from infra.storage import publish_bytes, storage_path


def benchmark_jobs(benchmark: Benchmark, references: References, sample: SampleConfig) -> list[JobLine]:
    """Return a job for each case: its prompt, its subjects by their input photos, its boxes."""
    settings = sample.model_dump(exclude={"strength"}, exclude_none=True)
    return [
        JobLine(
            case.name, parse_job({**settings, **_case_fields(case, benchmark, references, sample)}, case.name), Path()
        )
        for case in benchmark.cases
    ]


def _case_fields(case: Case, benchmark: Benchmark, references: References, sample: SampleConfig) -> dict[str, Any]:
    boxes: tuple[Any, ...] = case.boxes or (None,) * len(case.subjects)
    subjects = [
        {
            "label": label,
            "images": str(references[name][input_index(benchmark.subjects[name])]),
            "box": box,
            "strength": sample.strength,
        }
        for name, label, box in zip(case.subjects, class_names(benchmark, case.subjects), boxes, strict=True)
    ]
    return {"prompt": case.prompt, "subjects": subjects, "n": benchmark.images_per_case, "seed": 0}


class ImageFolder:
    """The folder of a benchmark's images.

    Args:
        folder: the folder; created when the first image is written.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.known: dict[str, Path] = {}
        """Files that exist, by the name that tells how each was made."""
        for path in sorted(folder.rglob("*.png")) if folder.is_dir() else ():
            self.known[file_name(read_png(path)[1])] = path

    def store(self, image: ImageFile) -> None:
        """Write an image of a case, or copy that of another case with the same job.

        Raises:
            InvalidJob: the file exists and was made with other settings.
            OutputError: the disk is full, or the folder is not writable.
        """
        path = self.folder / image.source / f"{image.seed}.png"
        content = self.known[image.name].read_bytes() if image.content is None else image.content
        if self.known.get(image.name) == path:
            return
        if path.exists():
            raise InvalidJob(f"{path} was made with other settings or another model: give another --out, or remove it")
        try:
            publish_bytes(storage_path(path), content)
        except OSError as error:
            raise OutputError(
                f"{path} cannot be written ({error.strerror}): free space, or give another --out"
            ) from error
        self.known.setdefault(image.name, path)


def store_outcomes(outcomes: Iterable[Outcome], folder: ImageFolder, on_image: Callable[[], None]) -> dict[str, str]:
    """Write images as they are made, and return the failed cases with their reasons.

    Args:
        outcomes: images and failures.
        folder: folder of the images.
        on_image: called after each image.

    Raises:
        InvalidJob: as `ImageFolder.store`.
        OutputError: likewise.
    """
    failures: dict[str, str] = {}
    for outcome in outcomes:
        if isinstance(outcome, Failure):
            failures[outcome.source] = outcome.message
        else:
            folder.store(outcome)
            on_image()
    return failures
