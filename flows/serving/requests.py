"""Requests for images in the shape of OpenAI's, with subjects and the sampler's settings, and the jobs they become."""

import base64
import binascii
import re
import secrets
from typing import Annotated, Any, Literal, TypeAlias

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, WithJsonSchema

from flows.generation.job import GenerationJob
from flows.serving.errors import ApiError
from infra.ranges import Factor, Seed, Share
from model.inputs.layout import Layout

_RANDOM_SEEDS = 1 << 31
"""Seeds that the server draws from: numbers that other programs can take too."""
_DATA_URL = re.compile(r"data:[^,]{0,200};base64,")


def decode_image_text(value: object) -> object:
    """Return the bytes of an image in base64 or in a data URL; other kinds of values as they are."""
    if not isinstance(value, str):
        return value
    if value[:8].lower().startswith(("http:", "https:")):
        raise ValueError("this server loads no URLs: give the image itself, as data:image/png;base64,… or base64")
    prefix = _DATA_URL.match(value)
    try:
        return base64.b64decode(value[prefix.end() :] if prefix else value, validate=True)
    except (binascii.Error, ValueError) as error:
        raise ValueError(f"is neither a data URL nor base64 ({error})") from error


ImageBytes = Annotated[
    bytes,
    BeforeValidator(decode_image_text),
    WithJsonSchema({"type": "string", "description": "An image file as data URL (data:image/png;base64,…) or base64."}),
]
"""Bytes of an image file."""
_IMAGE_OR_LIST = {"anyOf": [{"type": "string"}, {"type": "array", "items": {"type": "string"}}]}


def _as_list(value: object) -> object:
    return [value] if isinstance(value, str | bytes) else value


Images = Annotated[list[ImageBytes], BeforeValidator(_as_list), WithJsonSchema(_IMAGE_OR_LIST)]
"""Bytes of one image file or several."""


class SubjectRequest(BaseModel):
    """A subject of the new image."""

    model_config = ConfigDict(extra="forbid", use_attribute_docstrings=True, frozen=True)

    label: str
    """Name of the subject in one or a few words, such as cat."""
    image: Images = Field(default=[])
    """Picture of the subject, or several pictures of it. What surrounds the subject is cut away by the picture's
    transparency, by `mask`, or by the server's detector, which looks for `label`."""
    mask: Images | None = None
    """Mask of the subject in its picture: white, or opaque, inside; one for each picture."""
    box: tuple[float, float, float, float] | None = Field(default=None, examples=[[0.1, 0.4, 0.6, 0.9]])
    """Place of the subject in the new image: left, top, right, bottom as shares, 0 to 1."""
    place: ImageBytes | None = None
    """Mask of the subject in the new image, in place of `box`."""
    strength: Factor = 1.0
    """Factor on the attention to the subject; 0 hides it."""


class ImageRequest(BaseModel):
    """Fields of OpenAI's image requests, and below `user` those of this server."""

    model_config = ConfigDict(extra="forbid", use_attribute_docstrings=True, allow_inf_nan=False, frozen=True)

    prompt: str = Field(examples=["a vehicle in the snow"])
    """Text of the image. The end of a text that does not fit is cut, which `remarks` reports."""
    model: str | None = None
    """Name of the model, as /v1/models lists it."""
    n: int = Field(default=1, ge=1)
    """Number of images."""
    size: str | None = Field(default=None, pattern=r"^(auto|\d{1,5}x\d{1,5})$", examples=["64x64"])
    """Width and height in pixels as WIDTHxHEIGHT, or auto for the size that the model was trained with."""
    response_format: Literal["b64_json"] | None = None
    """Form of the images; this server stores none, so that url is refused."""
    output_format: Literal["png", "jpeg", "webp"] = "png"
    """Format of the images. A PNG holds the settings that it was made with."""
    output_compression: int = Field(default=100, ge=0, le=100)
    """Quality of JPEG and WebP."""
    background: Literal["auto", "opaque"] | None = None
    """Always opaque."""
    quality: Literal["auto", "standard", "high", "medium", "low", "hd"] | None = None
    """Ignored; `steps` sets the quality."""
    style: Literal["vivid", "natural"] | None = None
    """Ignored."""
    moderation: Literal["auto", "low"] | None = None
    """Ignored: nothing is moderated."""
    input_fidelity: Literal["high", "low"] | None = None
    """Ignored; `image_guidance` sets it."""
    stream: Literal[False] | None = None
    """Images are sent when all are done."""
    partial_images: Literal[0] | None = None
    """Images are sent when all are done."""
    safety_identifier: str | None = Field(default=None, max_length=200)
    """As `user`."""
    user: str | None = Field(default=None, max_length=200)
    """Name of the user that takes turns with others; by default the address of the client."""

    negative_prompt: str = ""
    """Text that guidance leads away from."""
    subjects: list[SubjectRequest] = Field(default=[], max_length=64)
    """Subjects of the image."""
    seed: Seed | None = None
    """Seed of the first image; the others have the next ones. By default random, and in the response."""
    steps: int | None = Field(default=None, ge=1)
    """Number of denoising steps; by default that of the model."""
    text_guidance: Factor | None = None
    """Scale of the text; by default that of the model."""
    image_guidance: Factor | None = None
    """Scale of the subjects; by default that of the model."""
    guidance_rescale: Share = 0.0
    """Share, 0 to 1, by which guidance is kept from raising the contrast."""
    scheduler: str | None = Field(default=None, examples=["DPMSolverMultistep"])
    """Name of a diffusers scheduler without its ending "Scheduler"; by default that of the model."""
    interpolation: Share | None = None
    """Share of the schedule, from its end, that uses the text alone."""
    layout: Layout = Layout.AUTO
    """Rule that places subjects without box or place."""

    @property
    def owner(self) -> str | None:
        """Name of the user that the client gave."""
        return self.safety_identifier or self.user


class EditRequest(ImageRequest):
    """An image request with a photo to generate into."""

    feather_px: int = Field(default=8, ge=0, le=1000)
    """Width of the border in which photo and image blend, in pixels of the photo."""


Settings: TypeAlias = dict[str, Any]
"""Fields of a job, before they are checked."""


def job_settings(request: ImageRequest) -> Settings:
    """Return the fields of the job that a request asks for."""
    copied = GenerationJob.model_fields.keys() & ImageRequest.model_fields.keys() - {"seed", "subjects"}
    width, height = _size(request.size)
    return {
        **{name: getattr(request, name) for name in copied},
        "seed": secrets.randbelow(_RANDOM_SEEDS) if request.seed is None else request.seed,
        "subjects": [_subject_settings(subject, f"subjects.{i}") for i, subject in enumerate(request.subjects)],
        "width": width,
        "height": height,
    }


def make_job(settings: Settings) -> GenerationJob:
    """Return the checked job.

    Raises:
        ApiError: a field has a value that it does not take.
    """
    try:
        return GenerationJob.model_validate(settings)
    except ValidationError as error:
        first = error.errors()[0]
        param = ".".join(map(str, first["loc"])) or None
        param = "size" if param in ("width", "height") else param
        raise ApiError(f"{param or 'request'}: {first['msg'].removeprefix('Value error, ')}", param) from None


def _size(size: str | None) -> tuple[int | None, int | None]:
    if size in (None, "auto"):
        return None, None
    width, height = str(size).split("x")
    return int(width), int(height)


def _subject_settings(subject: SubjectRequest, name: str) -> Settings:
    if not subject.image:
        raise ApiError(f"{name}.image is missing: give a picture of {subject.label!r}", f"{name}.image", "missing")
    return {
        "label": subject.label,
        "images": _sources(subject.image, f"{name}.image"),
        "masks": None if subject.mask is None else _sources(subject.mask, f"{name}.mask"),
        "box": subject.box,
        "place": None if subject.place is None else source(subject.place, f"{name}.place"),
        "strength": subject.strength,
    }


def _sources(images: list[bytes], name: str) -> list[Settings]:
    if len(images) == 1:
        return [source(images[0], name)]
    return [source(image, f"{name}.{number}") for number, image in enumerate(images)]


def source(data: bytes, name: str) -> Settings:
    """Return the fields of an image of the request, whose name in messages is that of its field."""
    return {"file": name, "data": data}
