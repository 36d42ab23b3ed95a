"""A request for images, described completely: the same job gives the same images from every entry point.

    cat = {"label": "cat", "images": "cat.png"}
    job = parse_job({"prompt": "a cat on the beach", "subjects": [cat], "seed": 7}, "jobs.jsonl:1")

Command line, line of JSON, metadata of a PNG, and the server's requests all become a `GenerationJob`.
"""

import base64
import binascii
import hashlib
import json
from collections.abc import Callable, Mapping
from typing import Annotated, Any, Self

from pydantic import BeforeValidator, Field, PlainSerializer, ValidationError, model_validator

from flows.generation.errors import InvalidJob
from infra.config import Config
from infra.ranges import Factor, Seed, Share
from model.inputs.layout import Layout, parse_box
from model.sampling.config import Interpolation

MAX_SIDE_PX = 4096
"""Longest side of an image to generate: a typing error is refused before it takes all memory."""


def _decode_base64(value: object) -> object:
    if not isinstance(value, str):
        return value
    try:
        return base64.b64decode(value, validate=True)
    except binascii.Error as error:
        raise ValueError(f"is not base64 ({error})") from error


def _encode_base64(value: bytes | None) -> str | None:
    return None if value is None else base64.b64encode(value).decode()


FileBytes = Annotated[bytes, BeforeValidator(_decode_base64)]
"""Bytes of a file; base64 in JSON."""


class ImageSource(Config):
    """An image file of a user: its name, its bytes, or both. In JSON a string stands for its name."""

    file: str | None = None
    """Path of the file. Metadata of an image hold the last part of the path alone."""
    data: Annotated[FileBytes | None, PlainSerializer(_encode_base64, when_used="json")] = Field(
        default=None, repr=False
    )
    """Bytes of the file; None to read them from `file`."""
    sha256: str | None = Field(default=None, pattern="^[0-9a-f]{64}$")
    """Hash that the bytes must have; None to take any."""

    @model_validator(mode="before")
    @classmethod
    def _parse_name(cls, value: object) -> object:
        return {"file": value} if isinstance(value, str) else value

    @model_validator(mode="after")
    def _refuse_nothing(self) -> Self:
        if self.file is None and self.data is None and self.sha256 is None:
            raise ValueError("an image needs a file, or data in base64")
        return self

    @property
    def name(self) -> str:
        """Name in messages: the path, or the start of the hash."""
        return self.file or f"image {(self.sha256 or hashlib.sha256(self.data or b'').hexdigest())[:12]}"

    def without_data(self) -> "ImageSource":
        """Return a source that holds the last part of the file's path, and the hash."""
        return self.model_copy(update={"data": None, "file": self.file and self.file.replace("\\", "/").split("/")[-1]})


OnSource = Callable[[ImageSource], ImageSource]
"""Function that replaces a source."""


class JobSubject(Config):
    """A subject of a job."""

    label: str = Field(min_length=1, max_length=1000)
    """Name of the subject in one or a few words; part of the prompt."""
    images: tuple[ImageSource, ...] = Field(min_length=1, max_length=16)
    """Pictures of the subject, transparent around it unless `masks` are given; one picture or a list."""
    masks: tuple[ImageSource, ...] | None = None
    """Masks of the subject in its pictures, one for each."""
    box: tuple[Share, Share, Share, Share] | None = None
    """Box in the new image: left, top, right, bottom as shares, 0 to 1."""
    place: ImageSource | None = None
    """Mask of the subject in the new image, at any resolution."""
    strength: Factor = 1.0
    """Factor on the adapters' attention to the subject; 0 hides it from them."""

    @model_validator(mode="before")
    @classmethod
    def _list_files(cls, value: object) -> object:
        if not isinstance(value, Mapping):
            return value
        single = {name: (value[name],) for name in ("images", "masks") if isinstance(value.get(name), str | Mapping)}
        return {**value, **single}

    @model_validator(mode="after")
    def _check(self) -> Self:
        if not self.label.strip():
            raise ValueError("label is blank: name the subject in one or a few words, such as cat")
        if self.masks is not None and len(self.masks) != len(self.images):
            raise ValueError(
                f"{self.label!r} has {len(self.images)} pictures and {len(self.masks)} masks: give one for each picture"
            )
        if self.box is not None:
            parse_box(self.box, self.label)
        return self

    def map_sources(self, change: OnSource) -> "JobSubject":
        """Return the subject with each of its sources replaced."""
        return self.model_copy(
            update={
                "images": tuple(map(change, self.images)),
                "masks": self.masks and tuple(map(change, self.masks)),
                "place": self.place and change(self.place),
            }
        )


class JobPhoto(Config):
    """A photo that is generated into."""

    image: ImageSource
    """The photo."""
    region: ImageSource | None = None
    """Mask of the part that is generated, of the photo's size; None for the subjects' boxes."""
    feather_px: int = Field(default=8, ge=0, le=1000)
    """Width of the border in which photo and image blend, in pixels of the photo."""

    def map_sources(self, change: OnSource) -> "JobPhoto":
        """Return the photo with each of its sources replaced."""
        return self.model_copy(update={"image": change(self.image), "region": self.region and change(self.region)})


def _parse_alpha(value: object) -> object:
    return {"alpha": value} if isinstance(value, int | float) else value


class GenerationJob(Config):
    """One request for images. None in a setting of the sampler stands for the default of the model's folder."""

    prompt: str = Field(max_length=100_000)
    """Text of the image; may be empty. The end of a text that does not fit is cut, which the result reports."""
    negative_prompt: str = Field(default="", max_length=100_000)
    """Text that guidance leads away from."""
    subjects: tuple[JobSubject, ...] = ()
    """Subjects, in the order of their clauses in the prompt."""
    n: int = Field(default=1, ge=1, le=10_000)
    """Number of images. Their seeds are `seed`, `seed` + 1 and so on."""
    seed: Seed = 0
    """Seed of the first image's noise."""
    steps: Annotated[int, Field(ge=1, le=1000)] | None = None
    """Number of denoising steps."""
    text_guidance: Factor | None = None
    """Scale of the text."""
    image_guidance: Factor | None = None
    """Scale of the subjects."""
    guidance_rescale: Share = 0.0
    """Share, 0 to 1, by which guidance is kept from raising the contrast (arXiv 2305.08891)."""
    scheduler: str | None = Field(default=None, max_length=100)
    """Name of a diffusers scheduler without its ending "Scheduler"."""
    layout: Layout = Layout.AUTO
    """Rule that places subjects without box or place."""
    interpolation: Annotated[Interpolation | None, BeforeValidator(_parse_alpha)] = None
    """Eq. 4, or its alpha: share of the noise schedule, from its end, that uses the text alone."""
    height: Annotated[int, Field(ge=1, le=MAX_SIDE_PX)] | None = None
    """Height of the images in pixels; None for that of training, or of the photo's window."""
    width: Annotated[int, Field(ge=1, le=MAX_SIDE_PX)] | None = None
    """Width of the images in pixels."""
    photo: JobPhoto | None = None
    """Photo that is generated into; boxes and places are then shares of it."""

    @model_validator(mode="after")
    def _check_last_seed(self) -> Self:
        if self.seed + self.n > 2**63:
            raise ValueError(f"seed={self.seed} with n={self.n}: the last seed must be below 2**63")
        return self

    @property
    def seeds(self) -> range:
        """Seed of each image."""
        return range(self.seed, self.seed + self.n)

    def map_sources(self, change: OnSource) -> "GenerationJob":
        """Return the job with each of its image sources replaced."""
        return self.model_copy(
            update={
                "subjects": tuple(subject.map_sources(change) for subject in self.subjects),
                "photo": self.photo and self.photo.map_sources(change),
            }
        )


def parse_job(settings: Mapping[str, Any], source: str) -> GenerationJob:
    """Return the job of parsed JSON, or of keyword arguments.

    Args:
        settings: values of the job's fields.
        source: where they come from, for messages, such as `jobs.jsonl:12`.

    Raises:
        InvalidJob: a field is unknown, missing, or has a value that it does not take.
    """
    try:
        return GenerationJob.model_validate(settings)
    except ValidationError as error:
        problems = [
            f"{'.'.join(map(str, one['loc'])) or 'job'}: {one['msg'].removeprefix('Value error, ')} "
            f"(got {_shorten(one['input'])})"
            for one in error.errors()
        ]
        raise InvalidJob(f"{source}: {'; '.join(problems)}") from None


def parse_json(text: str | bytes, source: str) -> GenerationJob:
    """Return the job of a JSON object.

    Raises:
        InvalidJob: as `parse_job`, or the text is not a JSON object.
    """
    return parse_job(parse_object(text, source), source)


def parse_object(text: str | bytes, source: str) -> dict[str, Any]:
    """Return the fields of a JSON object, which may be those of a job.

    Raises:
        InvalidJob: the text is not a JSON object.
    """
    example = 'give one object, such as {"prompt": "a cat"}'
    try:
        settings = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise InvalidJob(f"{source}: not JSON ({error}): {example}") from None
    if not isinstance(settings, dict):
        raise InvalidJob(f"{source}: {_shorten(settings)} is not a JSON object: {example}")
    return settings


def _shorten(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:77]}…"
