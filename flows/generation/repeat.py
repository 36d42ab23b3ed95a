"""Makes an image again from its file, with the same model and the same images of subjects, and compares the two."""

from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from flows.generation.errors import InvalidJob
from flows.generation.generator import GeneratedImage, Generator
from flows.generation.images import read_source
from flows.generation.job import GenerationJob, ImageSource
from flows.generation.png import read_png
from flows.generation.provenance import library_versions

Cut = Callable[[ImageSource, str], ImageSource]
"""Function that cuts a subject of this label out of a picture."""


@dataclass(frozen=True, eq=False)
class Repetition:
    """An image that was made again."""

    image: GeneratedImage
    """The new image."""
    job: GenerationJob
    """Its job, with the bytes of its images."""
    largest_difference: int
    """Largest difference of a channel from the image in the file, 0 to 255."""
    changes: tuple[str, ...]
    """Device and versions that are not those of the image in the file."""


def repeat_image(path: Path, files: Iterable[Path], cut: Cut, make_generator: Callable[[str], Generator]) -> Repetition:
    """Make the image of a file again.

    Args:
        path: PNG file that `encode_png` wrote.
        files: images of the subjects, the masks and the photo that the file does not embed, in any order.
        cut: cuts a subject out of a picture, if the job used the cut-out.
        make_generator: loads the model in a precision.

    Raises:
        InvalidJob: the file is damaged, an image is missing or another, or the model is another.
    """
    original, provenance = read_png(path)
    job = _fill_in(provenance.job, [read_source(ImageSource(file=str(file)), Path()) for file in files], cut, path)
    generator = make_generator(provenance.dtype)
    if generator.model.sha256 != provenance.model.sha256:
        raise InvalidJob(
            f"{path} was made by another model, {provenance.model.name} with the SHA-256 {provenance.model.sha256}: "
            f"give its folder as --model; {generator.model.name} has {generator.model.sha256}"
        )
    image = generator.repeat(provenance, generator.prepare(job))
    now = {**library_versions(), "device": generator.device.type}
    before = {**provenance.versions, "device": provenance.device}
    changes = tuple(
        f"{name} {before.get(name, 'unknown')}, now {now[name]}" for name in now if before.get(name) != now[name]
    )
    return Repetition(image, job, _largest_difference(original, image.image), changes)


def _largest_difference(a: Image.Image, b: Image.Image) -> int:
    if a.size != b.size:  # the file was edited
        return 255
    return int(np.abs(np.asarray(a, np.int16) - np.asarray(b, np.int16)).max())


def _fill_in(job: GenerationJob, given: list[ImageSource], cut: Cut, path: Path) -> GenerationJob:
    """Return the job with the bytes of the given images in place of the hashes."""
    known = {source.sha256: source.data for source in given}
    wanted = {source.sha256: source.name for source in _sources(job) if source.data is None}
    for label in dict.fromkeys(subject.label for subject in job.subjects):
        for source in given:
            if wanted.keys() - known.keys() and source.sha256 not in wanted:
                with suppress(InvalidJob):  # it is no photo of this subject
                    cutout = cut(source, label)
                    known[cutout.sha256] = cutout.data
    if missing := [f"{name} (SHA-256 {sha256})" for sha256, name in wanted.items() if sha256 not in known]:
        others = [f"{source.name} (SHA-256 {source.sha256})" for source in given if source.sha256 not in wanted]
        raise InvalidJob(
            f"{path} does not embed {' and '.join(missing)}: give the file with --subject, in any place and by any name"
            + (f"; given: {', '.join(others)}" if others else "")
        )
    return job.map_sources(
        lambda source: source if source.data else source.model_copy(update={"data": known[source.sha256]})
    )


def _sources(job: GenerationJob) -> list[ImageSource]:
    found: list[ImageSource] = []

    def note(source: ImageSource) -> ImageSource:
        found.append(source)
        return source

    job.map_sources(note)
    return found
