"""What the API and the page share: one model, one detector for cut-outs, one queue, and the limits."""

import io
import re
from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from flows.cutout_networks import naming_small_networks
from flows.generation.cutouts import OPTION
from flows.generation.errors import InvalidJob
from flows.generation.generator import GeneratedImage, Generator, Progress
from flows.generation.images import decode_image
from flows.generation.job import GenerationJob, ImageSource, JobSubject
from flows.serving.errors import ApiError
from flows.serving.limits import Limits
from flows.serving.queue import Task, WorkQueue
from labeling.cutout import Cutout, Cutter
from labeling.errors import LabelingError, NothingFound
from labeling.photo import decode_photo

OnProgress = Callable[[Progress], None]
"""Function that the network thread calls after each step."""


class ImageService:
    """Makes images and cut-outs for several users, one at a time.

    Args:
        generator: the model.
        cutter: networks that cut subjects out of opaque pictures.
        limits: limits of the server.
    """

    def __init__(self, generator: Generator, cutter: Cutter, limits: Limits) -> None:
        self.generator = generator
        self.limits = limits
        self.queue = WorkQueue(limits.max_waiting)
        self._cutter = cutter

    def submit(
        self,
        job: GenerationJob,
        owner: str,
        on_progress: OnProgress | None = None,
        attention: bool = False,
        masks_of_server: bool = False,
    ) -> Task[list[GeneratedImage]]:
        """Append a job to the queue; its errors come from the task's future.

        The provenance of the images holds the masks that the server made, because nobody has them as files.

        Args:
            job: the job, with the bytes of its images.
            owner: user that takes turns with others.
            on_progress: called after each step, from the network thread.
            attention: whether the images come with attention maps.
            masks_of_server: whether the masks of the job are cut-outs of the server.

        Raises:
            ApiError: the job is above a limit.
            QueueFull: too many tasks wait.
            QueueClosed: the server is stopping.
        """
        self._check(job)

        def work(task: Task[list[GeneratedImage]]) -> list[GeneratedImage]:
            whole = self._cut_out_opaque(job)
            (images,) = self.generator.run([self.generator.prepare(whole)], on_progress, task.canceled, attention)
            own = [masks_of_server or given.masks is None for given in job.subjects]
            return [_embed_masks(image, whole, own) for image in images]

        return self.queue.submit(work, owner)

    def submit_cutout(
        self, picture: bytes, name: str, label: str, box: tuple[float, ...] | None, owner: str
    ) -> Task[Cutout]:
        """Append the cutting of one subject to the queue, by transparency, box, or detector.

        Args:
            picture: bytes of an image file.
            name: name of the picture in messages.
            label: name of the subject.
            box: box around the subject in shares of the picture, 0 to 1; by default transparency or detector tell.
            owner: user that takes turns with others.

        Raises:
            QueueFull: too many tasks wait.
            QueueClosed: the server is stopping.
        """
        return self.queue.submit(lambda _: self._cut(picture, name, label, box), owner)

    def _cut(self, picture: bytes, name: str, label: str, box: tuple[float, ...] | None) -> Cutout:
        photo = decode_photo(picture, name, self.limits.max_pixels)
        with naming_small_networks(self._cutter, OPTION):
            return self._cutter.cut(photo, label, box=box)

    def _cut_out_opaque(self, job: GenerationJob) -> GenerationJob:
        """Return the job with masks for pictures that have neither mask nor transparency."""
        return job.model_copy(update={"subjects": tuple(map(self._with_masks, job.subjects))})

    def _with_masks(self, subject: JobSubject) -> JobSubject:
        if subject.masks is not None or all(self._shows_subject(source) for source in subject.images):
            return subject
        masks = [self._cut_unmarked(source, subject.label).mask for source in subject.images]
        sources = [_mask_source(mask, source) for mask, source in zip(masks, subject.images, strict=True)]
        return subject.model_copy(update={"masks": tuple(sources)})

    def _cut_unmarked(self, picture: ImageSource, label: str) -> Cutout:
        try:
            return self._cut(picture.data or b"", picture.name, label, None)
        except NothingFound as error:
            cure = "In a request `mask`, or transparency, marks the subject; `box` is its place in the new image"
            raise ApiError(f"{error}. {cure}", picture.name) from error

    def _shows_subject(self, source: ImageSource) -> bool:
        """Return whether the picture's own transparency tells where the subject is."""
        return decode_image(source, self.limits.max_pixels).opaque is not None

    def _check(self, job: GenerationJob) -> None:
        """Refuse a job above a limit."""
        limits, most = self.limits, self.generator.max_subjects
        if len(job.subjects) > most:
            raise ApiError(f"{len(job.subjects)} subjects, but this model takes {most}: give fewer", "subjects")
        for name, value, limit in (
            ("n", job.n, limits.max_images),
            ("steps", job.steps or 0, limits.max_steps),
            ("size", max(job.width or 0, job.height or 0), limits.max_side_px),
        ):
            if value > limit:
                raise ApiError(f"{name}: {value} is more than {limit}, the limit of this server", name)
        for name in ("prompt", "negative_prompt"):
            if (length := len(getattr(job, name))) > limits.max_prompt_characters:
                message = f"{name} has {length:,} characters, but this server takes {limits.max_prompt_characters:,}"
                raise ApiError(message, name)
        for number, subject in enumerate(job.subjects):
            if (pictures := len(subject.images)) > limits.max_pictures:
                message = f"{subject.label!r} has {pictures} pictures, but this server takes {limits.max_pictures}"
                raise ApiError(message, f"subjects.{number}.image")

    def explain(self, error: Exception, job: GenerationJob) -> Exception:
        """Return the error with the field of the request that its message starts with."""
        if not isinstance(error, InvalidJob | LabelingError):
            return error
        sources: list[str] = []
        job.map_sources(lambda source: sources.append(source.name) or source)  # type: ignore[func-returns-value]
        message = str(error).removeprefix("sampling.")
        fields = [*sources, *GenerationJob.model_fields]
        return ApiError(message, next((name for name in fields if re.match(rf"{re.escape(name)}\b", message)), None))


def encode_mask(mask: NDArray[np.bool_]) -> bytes:
    """Return a mask as PNG, white inside."""
    file = io.BytesIO()
    Image.fromarray(mask.astype(np.uint8) * np.uint8(255)).save(file, "PNG", compress_level=1)
    return file.getvalue()


def _embed_masks(image: GeneratedImage, job: GenerationJob, which: Sequence[bool]) -> GeneratedImage:
    """Return the image with the bytes of its subjects' masks in its provenance, for the subjects that `which` marks."""
    bare = image.provenance.job
    subjects = [
        _with_mask_bytes(subject, whole) if embed else subject
        for subject, whole, embed in zip(bare.subjects, job.subjects, which, strict=True)
    ]
    return replace(image, provenance=image.provenance.embed(bare.model_copy(update={"subjects": tuple(subjects)})))


def _with_mask_bytes(subject: JobSubject, whole: JobSubject) -> JobSubject:
    masks = [
        mask.model_copy(update={"data": given.data})
        for mask, given in zip(subject.masks or (), whole.masks or (), strict=True)
    ]
    return subject.model_copy(update={"masks": tuple(masks) or None})


def _mask_source(mask: NDArray[np.bool_], picture: ImageSource) -> ImageSource:
    return ImageSource(file=f"the cut-out of {picture.name}", data=encode_mask(mask))
