"""Jobs as work for one or several workers, each with the model loaded, and their images as files.

A worker gets the bytes of all images with its tasks and returns files as bytes, so it needs none of the caller's
folders. What exists is not made again, and a job that fails does not stop the others.
"""

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from flows.generation.errors import GenerationError, InvalidJob
from flows.generation.generator import GeneratedImage, Generator, OnProgress, PreparedJob
from flows.generation.job import GenerationJob, parse_job, parse_object
from flows.generation.output import file_name
from flows.generation.png import encode_png
from flows.generation.provenance import Batch
from model.errors import ModelError

CHUNK_IMAGES = 16
"""Images that a worker makes before it returns them: at most so many are lost with a run that is killed."""
_ALONE = Batch(size=1, position=0)


@dataclass(frozen=True)
class JobLine:
    """A job and where it comes from."""

    source: str
    """Place of the job in messages, such as `jobs.jsonl:12`."""
    job: GenerationJob
    folder: Path
    """Folder that the job's relative paths start from."""


@dataclass(frozen=True)
class Task:
    """Images of one job that one worker makes."""

    source: str
    """Place of the job."""
    job: GenerationJob
    """The job with the bytes of its images."""
    seeds: tuple[int, ...]
    """Seeds of the images to make."""


@dataclass(frozen=True)
class ImageFile:
    """An image as a file."""

    source: str
    """Place of the job."""
    seed: int
    """Seed of the image."""
    name: str
    """Name of the file."""
    content: bytes | None
    """Bytes of the file; None if it exists already."""
    remarks: tuple[str, ...] = ()
    """Remarks for the user."""


@dataclass(frozen=True)
class Failure:
    """A job, or a part of it, that gave no images."""

    source: str
    """Place of the job."""
    message: str
    """What is wrong and what to do."""


Outcome = ImageFile | Failure


def read_lines(path: Path, defaults: Mapping[str, Any]) -> Iterator[JobLine | Failure]:
    """Read the jobs of a file, one JSON object a line; empty lines are skipped.

    Args:
        path: the file. Relative paths in it start from its folder.
        defaults: fields of jobs that do not set them.

    Raises:
        InvalidJob: the file cannot be read.
    """
    try:
        lines = path.read_bytes().splitlines()
    except OSError as error:
        raise InvalidJob(
            f"{path} cannot be read ({error.strerror}): give a file with one JSON object a line"
        ) from error
    for number, line in enumerate(lines, start=1):
        source = f"{path}:{number}"
        if line.strip():
            try:
                yield JobLine(source, parse_job({**defaults, **parse_object(line, source)}, source), path.parent)
            except InvalidJob as error:
                yield Failure(source, str(error).removeprefix(f"{source}: "))


def split_tasks(
    lines: Iterable[JobLine],
    read: Callable[[JobLine], GenerationJob],
    on_failure: Callable[[Failure], None],
    images: int = CHUNK_IMAGES,
) -> Iterator[list[Task]]:
    """Yield the work of a worker until it returns: the tasks of one chunk.

    Args:
        lines: the jobs.
        read: returns the job of a line with the bytes of its images.
        on_failure: called for a job whose images cannot be read.
        images: images of a chunk at most.
    """
    chunk: list[Task] = []
    for line in lines:
        try:
            job = read(line)
        except InvalidJob as error:
            on_failure(Failure(line.source, str(error)))
            continue
        for start in range(0, job.n, images):
            task = Task(line.source, job, tuple(job.seeds[start : start + images]))
            if chunk and sum(len(one.seeds) for one in (*chunk, task)) > images:
                yield chunk
                chunk = []
            chunk.append(task)
    if chunk:
        yield chunk


class TaskRunner:
    """Makes the images of tasks as PNG files.

    Args:
        generator: the loaded model.
        embed: whether files hold the images of their subjects.
    """

    def __init__(self, generator: Generator, embed: bool = False) -> None:
        self.generator = generator
        self._embed = embed

    def run(
        self, tasks: Sequence[Task], known: Collection[str] = (), on_progress: OnProgress | None = None
    ) -> list[Outcome]:
        """Return a file for each image of the tasks, or the failure of a task.

        Args:
            tasks: the tasks; images of equal settings are computed together.
            known: names of files that exist already.
            on_progress: called after each step.
        """
        outcomes: list[Outcome] = []
        work: list[tuple[Task, PreparedJob]] = []
        for task in tasks:
            try:
                prepared = self.generator.prepare(task.job)
            except (GenerationError, ModelError) as error:
                outcomes.append(Failure(task.source, str(error)))
                continue
            names = {seed: file_name(self.generator.provenance(prepared, seed, _ALONE)) for seed in task.seeds}
            existing = frozenset(seed for seed, name in names.items() if name in known)
            outcomes += [ImageFile(task.source, seed, names[seed], None) for seed in task.seeds if seed in existing]
            work.append((task, replace(prepared, seeds=task.seeds, existing=existing)))
        return outcomes + self._make(work, on_progress)

    def _make(self, work: Sequence[tuple[Task, PreparedJob]], on_progress: OnProgress | None) -> list[Outcome]:
        """Make the missing images together; if one job fails, make those of each job alone."""
        if all(prepared.exists for _, prepared in work):
            return []
        try:
            made = self.generator.run([prepared for _, prepared in work], on_progress)
            return [
                self._file(task, prepared, image)
                for (task, prepared), images in zip(work, made, strict=True)
                for image in images
            ]
        except (GenerationError, ModelError) as error:
            if len(work) == 1:
                return [Failure(work[0][0].source, str(error))]
            return [outcome for one in work for outcome in self._make([one], on_progress)]

    def _file(self, task: Task, prepared: PreparedJob, image: GeneratedImage) -> ImageFile:
        provenance = image.provenance.embed(prepared.job) if self._embed else image.provenance
        content = encode_png(image.image, provenance)
        return ImageFile(task.source, provenance.seed, file_name(provenance), content, image.remarks)
