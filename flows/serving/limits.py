"""Limits of the server: what one request may ask for, and what all requests together may hold in memory."""

from collections.abc import Iterable

from pydantic import Field, ValidationError

from infra.config import Config, SettingsError
from infra.ranges import Count

MIB = 1 << 20


class Limits(Config):
    """Limits of one server. A request above one of them is refused with a message that names it."""

    max_waiting: Count = 64
    """Requests that wait for the model; further ones get status 429 with Retry-After."""
    max_body_bytes: int = Field(default=48 * MIB, ge=1024, le=1 << 40)
    """Bytes of the body of one request."""
    max_held_bytes: int = Field(default=512 * MIB, ge=1024, le=1 << 44)
    """Bytes of the bodies of all requests that are read, wait or run; further ones get status 429."""
    max_pixels: int = Field(default=40_000_000, ge=1, le=1 << 40)
    """Pixels of one uploaded image."""
    max_images: Count = 10
    """Images of one request."""
    max_steps: Count = 200
    """Denoising steps of one request."""
    max_side_px: Count = 1024
    """Longest side of an image to generate, in pixels."""
    max_prompt_characters: Count = 32_000
    """Characters of a prompt, a negative prompt."""
    max_pictures: Count = 8
    """Pictures of one subject."""


def parse_limits(overrides: Iterable[str]) -> Limits:
    """Return the limits with overrides of the form NAME=VALUE.

    Raises:
        SettingsError: there is no such limit, or it does not take the value.
    """
    values: dict[str, str] = {}
    for override in overrides:
        name, equals, value = override.partition("=")
        if not equals or name not in Limits.model_fields:
            raise SettingsError(f"--set {override}: give NAME=VALUE with one of {', '.join(Limits.model_fields)}")
        values[name] = value
    try:
        return Limits.model_validate(values)
    except ValidationError as error:
        first = error.errors()[0]
        raise SettingsError(f"--set {first['loc'][0]}={first['input']}: {first['msg']}") from None
