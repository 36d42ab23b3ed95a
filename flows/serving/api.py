"""The API: OpenAI's requests for images, with subjects. Programs that know OpenAI's API can use it as it is."""

import asyncio
import base64
import io
import json
import time
from typing import Annotated, Any

from fastapi import APIRouter, Body, Request
from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel, ConfigDict, ValidationError
from starlette.datastructures import FormData, UploadFile

from flows.generation.generator import GeneratedImage
from flows.generation.job import GenerationJob
from flows.generation.png import encode_png
from flows.serving.errors import ApiError, ErrorBody
from flows.serving.queue import Task
from flows.serving.requests import EditRequest, ImageRequest, Settings, job_settings, make_job, source
from flows.serving.service import ImageService, encode_mask
from labeling.photo import decode_mask, decode_photo

_ERRORS: dict[int | str, dict[str, Any]] = {
    status: {"model": ErrorBody, "description": description}
    for status, description in {
        400: "A field of the request cannot be used; `param` names it.",
        401: "The access token is missing or wrong.",
        404: "There is no such model.",
        413: "The request is too large.",
        429: "The queue is full; Retry-After says when to try again.",
        503: "The server is stopping.",
    }.items()
}
_EXAMPLES: dict[str, Any] = {
    "text": {"summary": "A prompt alone", "value": {"prompt": "a tree in the snow", "n": 2, "seed": 7}},
    "subject": {
        "summary": "A subject, cut out by its transparency",
        "value": {
            "prompt": "a vehicle in the snow",
            "subjects": [{"label": "vehicle", "image": "data:image/png;base64,iVBORw0KGgo…", "strength": 1.0}],
            "seed": 1,
        },
    },
    "placed": {
        "summary": "Two subjects in boxes, with fewer steps",
        "value": {
            "prompt": "a dog and a ball on the grass",
            "subjects": [
                {"label": "dog", "image": "data:image/png;base64,iVBORw0KGgo…", "box": [0.05, 0.3, 0.5, 0.9]},
                {"label": "ball", "image": ["iVBORw0KGgo…", "iVBORw0KGgo…"], "box": [0.6, 0.6, 0.9, 0.9]},
            ],
            "scheduler": "DPMSolverMultistep",
            "steps": 12,
            "image_guidance": 4.0,
        },
    },
}
_EDIT_FORM = {
    "requestBody": {
        "required": True,
        "content": {
            "multipart/form-data": {
                "schema": {
                    "type": "object",
                    "required": ["image", "prompt"],
                    "properties": {
                        "image": {"type": "string", "format": "binary", "description": "The photo to generate into."},
                        "image[]": {
                            "type": "array",
                            "items": {"type": "string", "format": "binary"},
                            "description": "The photo, and after it the pictures of subjects that give none.",
                        },
                        "mask": {
                            "type": "string",
                            "format": "binary",
                            "description": "Region to generate: transparent, or without transparency white; by default "
                            "the boxes of the subjects.",
                        },
                        "prompt": {"type": "string"},
                        "subjects": {
                            "type": "string",
                            "description": "JSON, as in /v1/images/generations; `image` may be left out for files.",
                            "example": '[{"label": "cat", "box": [0.1, 0.4, 0.5, 0.9]}]',
                        },
                        "feather_px": {"type": "integer", "default": 8},
                        "n": {"type": "integer", "default": 1},
                        "seed": {"type": "integer"},
                    },
                    "additionalProperties": {"description": "Every other field of /v1/images/generations."},
                }
            }
        },
    }
}
_SECONDS_BETWEEN_LOOKS = 0.2
"""Time between two looks whether a client is still there, in seconds."""


class ImageData(BaseModel):
    """A generated image."""

    model_config = ConfigDict(use_attribute_docstrings=True)

    b64_json: str
    """The image file in base64."""
    seed: int
    """Seed that makes this image again."""
    boxes: list[tuple[float, float, float, float]]
    """Boxes of the subjects, as given or as the layout chose them."""
    remarks: list[str]
    """What the user should know, such as the end of the prompt that did not fit."""


class ImagesResponse(BaseModel):
    """Generated images."""

    model_config = ConfigDict(use_attribute_docstrings=True)

    created: int
    """Time of the response, in seconds since 1970."""
    data: list[ImageData]
    """The images."""
    output_format: str
    """Format of the images."""
    size: str
    """Size of the images as WIDTHxHEIGHT."""
    background: str = "opaque"
    """Always opaque."""


class ModelCard(BaseModel):
    """A model that the server serves."""

    model_config = ConfigDict(use_attribute_docstrings=True)

    id: str
    """Name for the field `model`."""
    object: str = "model"
    """Always model."""
    created: int
    """Start of the server, in seconds since 1970."""
    owned_by: str = "subject-diffusion"
    """Always subject-diffusion."""
    max_subjects: int
    """Subjects of an image at most."""


class ModelList(BaseModel):
    """Models that the server serves."""

    object: str = "list"
    data: list[ModelCard]


class Health(BaseModel):
    """State of the server."""

    status: str = "ok"
    waiting: int
    """Requests that wait."""


def make_router(service: ImageService) -> APIRouter:
    """Return the routes of the API.

    Args:
        service: what makes the images.
    """
    router, started = APIRouter(), int(time.time())
    name = service.generator.model.name
    decoding = asyncio.Lock()

    @router.get("/healthz")
    async def healthz() -> Health:
        """Tell that the server is up. Needs no token."""
        return Health(waiting=service.queue.waiting)

    @router.get("/v1/models", responses={401: _ERRORS[401]})
    async def models() -> ModelList:
        """List the one model."""
        return ModelList(data=[ModelCard(id=name, created=started, max_subjects=service.generator.max_subjects)])

    @router.post("/v1/images/generations", responses=_ERRORS)
    async def generations(
        request: Request, body: Annotated[ImageRequest, Body(openapi_examples=_EXAMPLES)]
    ) -> ImagesResponse:
        """Make images from a prompt and subjects."""
        _check_model(body.model, name)
        return await _respond(service, request, body, make_job(job_settings(body)))

    @router.post("/v1/images/edits", responses=_ERRORS, openapi_extra=_EDIT_FORM)
    async def edits(request: Request) -> ImagesResponse:
        """Make images inside a photo."""
        async with request.form(max_part_size=service.limits.max_body_bytes) as form:
            body, photo, mask = await _read_edit(form)
        _check_model(body.model, name)
        settings = job_settings(body)
        async with decoding:  # one large mask at a time takes memory
            region = None if mask is None else await asyncio.to_thread(_region, mask, service.limits.max_pixels)
        settings["photo"] = {
            "image": source(photo, "image"),
            "region": None if region is None else source(region, "mask"),
            "feather_px": body.feather_px,
        }
        return await _respond(service, request, body, make_job(settings))

    return router


def _check_model(given: str | None, name: str) -> None:
    if given not in (None, name):
        message = f"there is no model {given!r}: this server has {name}, which is also taken if `model` is left out"
        raise ApiError(message, "model", "model_not_found", status=404)


async def _respond(service: ImageService, request: Request, body: ImageRequest, job: GenerationJob) -> ImagesResponse:
    owner = body.owner or (request.client.host if request.client else "")
    try:
        images = await _result_unless_gone(request, service.submit(job, owner))
    except Exception as error:
        raise service.explain(error, job) from error
    files = await asyncio.to_thread(lambda: [encode(image, body) for image in images])
    width, height = images[0].image.size
    return ImagesResponse(
        created=int(time.time()),
        data=[_image_data(image, file) for image, file in zip(images, files, strict=True)],
        output_format=body.output_format,
        size=f"{width}x{height}",
    )


async def _result_unless_gone(request: Request, task: Task[list[GeneratedImage]]) -> list[GeneratedImage]:
    """Wait for the images; cancel the task when the client goes away."""
    result = asyncio.wrap_future(task.future)
    while not result.done():
        await asyncio.wait([result], timeout=_SECONDS_BETWEEN_LOOKS)
        if await request.is_disconnected():
            task.cancel()
    return result.result()


def encode(image: GeneratedImage, request: ImageRequest) -> bytes:
    """Return the image as a file in the format of the request."""
    if request.output_format == "png":
        return encode_png(image.image, image.provenance)
    file = io.BytesIO()
    image.image.save(file, request.output_format.upper(), quality=request.output_compression)
    return file.getvalue()


def _image_data(image: GeneratedImage, file: bytes) -> ImageData:
    return ImageData(
        b64_json=base64.b64encode(file).decode(),
        seed=image.provenance.seed,
        boxes=list(image.boxes),
        remarks=list(image.remarks),
    )


async def _read_edit(form: FormData) -> tuple[EditRequest, bytes, bytes | None]:
    """Return the fields of a form, the photo, and the mask."""
    files = [await _read_file(form, name, value) for name in ("image", "image[]") for value in form.getlist(name)]
    if not files:
        raise ApiError("image is missing: give the photo to generate into", "image", "missing")
    mask = await _read_file(form, "mask", form["mask"]) if "mask" in form else None
    fields: Settings = {name: value for name, value in form.items() if name not in ("image", "image[]", "mask")}
    fields["subjects"] = _with_files(_parse_subjects(fields.get("subjects", "[]")), files[1:])
    try:
        return EditRequest.model_validate(fields), files[0], mask
    except ValidationError as error:
        raise RequestValidationError([{**one, "loc": ("body", *one["loc"])} for one in error.errors()]) from None


async def _read_file(form: FormData, name: str, value: UploadFile | str) -> bytes:
    if isinstance(value, str):
        raise ApiError(f"{name} is text: send it as a file of the form", name)
    return await value.read()


def _parse_subjects(text: object) -> list[Settings]:
    try:
        subjects = json.loads(text) if isinstance(text, str) else None
    except (ValueError, RecursionError):
        subjects = None
    if not isinstance(subjects, list) or not all(isinstance(one, dict) for one in subjects):
        raise ApiError('subjects is not JSON of the form [{"label": "cat", "box": [0.1, 0.4, 0.5, 0.9]}]', "subjects")
    return subjects


def _with_files(subjects: list[Settings], files: list[bytes]) -> list[Settings]:
    """Return the subjects with files of the form as pictures of those that give none, in order."""
    without = [subject for subject in subjects if not subject.get("image")]
    if len(without) != len(files):
        raise ApiError(
            f"{len(files)} images after the photo for {len(without)} subjects without a picture: give one for each",
            "image",
        )
    pictures = iter(files)
    return [subject if subject.get("image") else {**subject, "image": next(pictures)} for subject in subjects]


def _region(mask: bytes, max_pixels: int) -> bytes:
    """Return the region to generate as a mask that is white inside: where `mask` is transparent, as in OpenAI's API."""
    opaque = decode_photo(mask, "mask", max_pixels).opaque
    return encode_mask(decode_mask(mask, "mask", max_pixels) if opaque is None else ~opaque)
