"""Verdicts on URLs by the values of the list, before they are fetched, and on bodies by their bytes."""

import hashlib
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np

from labeling.config import DownloadConfig
from labeling.download.lists.exclusions import NOTHING_EXCLUDED, Exclusions
from labeling.download.lists.names import key_of
from labeling.download.screening.imaging import difference_hash, probe, refuse_scans
from labeling.sdd.pixels import UndecodableImage
from labeling.sdd.schema import Layer, ListedUrl, State, Verdict

BIG_BYTES = 256 * 2**20
"""Memory in bytes beyond which only one process at a time decodes an image."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SpooledBody:
    """Body of a response, in a file."""

    key: bytes
    path: str
    may_be_big: bool = False
    """Whether decoding it may take more memory than `BIG_BYTES`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ScreenedImage:
    """Columns of images/ that follow from the bytes of an image that is kept."""

    sha256: bytes
    perceptual_hash: int
    media_type: str
    width_px: int
    height_px: int


@dataclass(frozen=True, slots=True, kw_only=True)
class ScreenResult:
    """Result of screening one body."""

    key: bytes
    outcome: ScreenedImage | Verdict | None
    """None where decoding takes more memory than it may."""


class ScreenStage:
    """Stage that screens bodies. It runs in a worker process, as decoders may crash or hang on hostile bodies."""

    name: ClassVar[str] = Layer.IMAGES
    reads: ClassVar[type] = SpooledBody
    writes: ClassVar[type] = ScreenResult

    def __init__(self, config: DownloadConfig) -> None:
        self.config = config

    def setup(self) -> None:
        """Load nothing: the stage has no network."""

    def prepare(self, row: SpooledBody) -> SpooledBody:
        """Return the row itself; its file is read in `process`, so that few bodies are in memory at once."""
        return row

    def process(self, batch: Sequence[SpooledBody]) -> list[ScreenResult]:
        """Return one result per body."""
        return [ScreenResult(key=body.key, outcome=self.screen_file(body)) for body in batch]

    def screen_file(self, body: SpooledBody) -> ScreenedImage | Verdict | None:
        """Read a body and `screen` it."""
        return screen(Path(body.path).read_bytes(), self.config, None if body.may_be_big else BIG_BYTES)


def verdict_of_listing(
    listed: ListedUrl,
    config: DownloadConfig,
    repeats_to_fetch: Collection[int] = (),
    exclusions: Exclusions = NOTHING_EXCLUDED,
) -> Verdict | None:
    """Return why a row of the list is not fetched; None if it is.

    Args:
        listed: row of the list.
        config: limits on its values.
        repeats_to_fetch: numbers of rows that are fetched although an earlier row has the same URL.
        exclusions: URLs that are not fetched.
    """
    if not listed.url:
        return Verdict(state=State.NOT_DOWNLOADED, reason="invalid_url", detail="the list has no URL in this row")
    if verdict := exclusions.verdict(listed.url):
        return verdict
    if verdict := verdict_of_values(listed, config):
        return verdict
    if listed.key != key_of(listed.url, 0) and listed.list_row not in repeats_to_fetch:
        return _drop("duplicate_url", "an earlier row of the list has this URL")
    return None


def verdict_of_values(listed: ListedUrl, config: DownloadConfig) -> Verdict | None:
    """Return why the values of a row refuse it; None if they do not. A missing value never refuses a row.

    Paper: App. B.1, small side greater than 1024 and aesthetic score greater than 5.
    """
    width, height = listed.listed_width_px, listed.listed_height_px
    if width is not None and height is not None and min(width, height) < config.min_side_px:
        return _drop("small_listed", f"{width}x{height}")
    if _is_below(listed.aesthetic_score, config.min_aesthetic_score):
        return _drop("low_aesthetic", f"{listed.aesthetic_score:.2f}")
    if _is_below(config.max_punsafe, listed.punsafe):
        return _drop("unsafe", f"{listed.punsafe:.2f}")
    if _is_below(config.max_pwatermark, listed.pwatermark):
        return _drop("watermark", f"{listed.pwatermark:.2f}")
    return None


def screen(encoded: bytes, config: DownloadConfig, max_memory: int | None = None) -> ScreenedImage | Verdict | None:
    """Decode an image once; return its properties, or why it is not kept.

    Paper: App. B.1, small side greater than 1024, of the upright image.

    Args:
        encoded: body of the response.
        config: limits on the image.
        max_memory: bytes that decoding may take; where it would take more, the result is None.
    """
    if not encoded:
        return Verdict(state=State.FAILED, reason="empty", detail="the response had no body")
    try:
        header = probe(encoded)
        if min(header.width_px, header.height_px) < config.min_side_px:
            return _drop("small_image", f"{header.width_px}x{header.height_px}")
        refuse_scans(encoded, config.max_scans)
        if max_memory is not None and header.decoding_bytes > max_memory:
            return None
        return ScreenedImage(
            sha256=hashlib.sha256(encoded).digest(),
            perceptual_hash=difference_hash(encoded),
            media_type=header.media_type,
            width_px=header.width_px,
            height_px=header.height_px,
        )
    except UndecodableImage as error:
        return Verdict(state=State.FAILED, reason=error.reason, detail=str(error))


def _is_below(value: float | None, bound: float | None) -> bool:
    """Return whether both are known and `value` is smaller, in the precision of the list's columns."""
    return value is not None and bound is not None and bool(np.float32(value) < np.float32(bound))


def _drop(reason: str, detail: str) -> Verdict:
    return Verdict(state=State.DROPPED, reason=reason, detail=detail)
