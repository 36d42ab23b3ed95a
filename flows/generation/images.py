"""Reading of users' image files. A file that cannot be used is refused with its name, the cause and the cure."""

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from flows.generation.errors import InvalidJob
from flows.generation.job import GenerationJob, ImageSource, JobSubject
from labeling.errors import CutoutError
from labeling.photo import DecodedPhoto, decode_mask, decode_photo, read_bytes
from labeling.sdd.pixels import MAX_PIXELS
from model.inputs.reference import Subject


def read_job(job: GenerationJob, folder: Path | None) -> GenerationJob:
    """Return the job with the bytes and hashes of all its images, so that it needs no file.

    Args:
        job: the job.
        folder: folder that relative paths start from; None to read no files, for jobs of people who may not read those
            of this machine.

    Raises:
        InvalidJob: as `read_source`.
    """
    return job.map_sources(lambda source: read_source(source, folder))


def read_source(source: ImageSource, folder: Path | None) -> ImageSource:
    """Return the image with its bytes and their hash.

    Args:
        source: file or bytes of an image.
        folder: as in `read_job`.

    Raises:
        InvalidJob: the file is missing, unreadable or too large, or the bytes do not have the hash that the job names.
    """
    data = _read(source, folder) if source.data is None else source.data
    found = hashlib.sha256(data).hexdigest()
    if source.sha256 not in (None, found):
        raise InvalidJob(
            f"{source.name} is another image than that of the job: its SHA-256 is {found}, not {source.sha256}"
        )
    return source.model_copy(update={"data": data, "sha256": found})


def decode_subject(subject: JobSubject, max_pixels: int = MAX_PIXELS) -> Subject:
    """Decode the images of a subject that has their bytes.

    Raises:
        InvalidJob: an image cannot be decoded, has more than `max_pixels` pixels, or shows no subject: it has neither
            mask nor transparency, or an empty one.
    """
    photos = [decode_image(source, max_pixels) for source in subject.images]
    if subject.masks is None:
        masks = [_opaque(photo, subject.label) for photo in photos]
    else:
        masks = [decode_region(source, max_pixels) for source in subject.masks]
    place = None if subject.place is None else decode_region(subject.place, max_pixels)
    try:
        return Subject([photo.pixels for photo in photos], subject.label, masks, subject.box, place, subject.strength)
    except ValueError as error:
        raise InvalidJob(f"{', '.join(source.name for source in subject.images)}: {error}") from error


def decode_image(source: ImageSource, max_pixels: int = MAX_PIXELS) -> DecodedPhoto:
    """Decode an image that has its bytes: the first frame, upright.

    Raises:
        InvalidJob: the bytes are no image of a known format, damaged, or have more than `max_pixels` pixels.
    """
    with _as_invalid_job():
        return decode_photo(source.data or b"", source.name, max_pixels)


def decode_region(source: ImageSource, max_pixels: int = MAX_PIXELS) -> NDArray[np.bool_]:
    """Decode a mask [h, w] that has its bytes: white inside, or transparent around it.

    Raises:
        InvalidJob: as `decode_image`.
    """
    with _as_invalid_job():
        return decode_mask(source.data or b"", source.name, max_pixels)


def _read(source: ImageSource, folder: Path | None) -> bytes:
    if source.file is None:
        raise InvalidJob(f"the image with the SHA-256 {source.sha256} is not embedded: give its file")
    if folder is None:
        raise InvalidJob(
            f"the image {source.file!r} is a file, which is not read here: give its bytes as data in base64"
        )
    with _as_invalid_job():
        return read_bytes(folder / source.file)


def _opaque(photo: DecodedPhoto, label: str) -> NDArray[np.bool_]:
    if photo.opaque is None:
        raise InvalidJob(
            f"{photo.name} has no transparency around {label!r}: give a mask of it, or cut it out first with "
            f"`subject-diffusion cutout {photo.name} --label {label}`"
        )
    if not photo.opaque.any():
        raise InvalidJob(f"{photo.name} is transparent everywhere: give a picture that shows {label!r}")
    return photo.opaque


@contextmanager
def _as_invalid_job() -> Iterator[None]:
    try:
        yield
    except CutoutError as error:
        raise InvalidJob(str(error)) from error
