"""What is worth fetching, judged by the list, and what is worth keeping, judged by the bytes that came."""

import hashlib
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np

from labeling.config import DownloadConfig
from labeling.download.imaging import difference_hash, probe, refuse_scans
from labeling.download.url_list import key_of
from labeling.sdd.pixels import UndecodableImage
from labeling.sdd.schema import Layer, ListedUrl, State, Verdict

BIG_BYTES = 256 * 2**20
"""Memory beyond which an image is looked at by one process at a time."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Body:
    """What a server sent for a URL."""

    key: bytes
    path: str
    """Its file."""
    may_be_big: bool = False
    """Whether it may take more memory than `BIG_BYTES` to look at."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Screened:
    """What was found out about an image that is kept."""

    sha256: bytes
    perceptual_hash: int
    media_type: str
    width_px: int
    height_px: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What became of a body."""

    key: bytes
    found: Screened | Verdict | None
    """None where looking at it takes more memory than it may."""


class ScreenStage:
    """Looks at bodies. It runs as the stages do, in a child process: a decoder may crash or hang on what it gets."""

    name: ClassVar[str] = Layer.IMAGES
    reads: ClassVar[type] = Body
    writes: ClassVar[type] = Outcome

    def __init__(self, config: DownloadConfig) -> None:
        self.config = config

    def setup(self) -> None:
        """There is nothing to load."""

    def prepare(self, row: Body) -> Body:
        """The body, which is read when its turn comes: few are in memory at once."""
        return row

    def process(self, batch: Sequence[Body]) -> list[Outcome]:
        """One outcome per body."""
        return [Outcome(key=body.key, found=self.look(body)) for body in batch]

    def look(self, body: Body) -> Screened | Verdict | None:
        """As `screen`, of a file."""
        return screen(Path(body.path).read_bytes(), self.config, None if body.may_be_big else BIG_BYTES)


def verdict_of_listing(
    listed: ListedUrl, config: DownloadConfig, fetched_repeats: Collection[int] = ()
) -> Verdict | None:
    """Why the URL is not to be fetched, as far as the list tells; None if it is.

    Args:
        fetched_repeats: the rows of the list that are fetched although an earlier row has their URL.
    """
    if not listed.url:
        return Verdict(state=State.NOT_DOWNLOADED, reason="invalid_url", detail="the list has no URL in this row")
    if verdict := verdict_of_values(listed, config):
        return verdict
    if listed.key != key_of(listed.url, 0) and listed.list_row not in fetched_repeats:
        return _dropped("duplicate_url", "an earlier row of the list has this URL")
    return None


def verdict_of_values(listed: ListedUrl, config: DownloadConfig) -> Verdict | None:
    """Why the values of a row refuse it; None if they do not. What the list leaves out is no reason.

    Paper: App. B.1, small side greater than 1024 and aesthetic score greater than 5.
    """
    width, height = listed.listed_width_px, listed.listed_height_px
    if width is not None and height is not None and min(width, height) < config.min_side_px:
        return _dropped("small_listed", f"{width}x{height}")
    if _below(listed.aesthetic_score, config.min_aesthetic_score):
        return _dropped("low_aesthetic", f"{listed.aesthetic_score:.2f}")
    if _below(config.max_punsafe, listed.punsafe):
        return _dropped("unsafe", f"{listed.punsafe:.2f}")
    if _below(config.max_pwatermark, listed.pwatermark):
        return _dropped("watermark", f"{listed.pwatermark:.2f}")
    return None


def screen(encoded: bytes, config: DownloadConfig, max_memory: int | None = None) -> Screened | Verdict | None:
    """What a body is, decoded once; or why it is not kept.

    Paper: App. B.1, small side greater than 1024, of the upright image.

    Args:
        max_memory: bytes that decoding it may take. Where it would take more, the answer is None.
    """
    if not encoded:
        return Verdict(state=State.FAILED, reason="empty", detail="the answer had no body")
    try:
        header = probe(encoded)
        if min(header.width_px, header.height_px) < config.min_side_px:
            return _dropped("small_image", f"{header.width_px}x{header.height_px}")
        refuse_scans(encoded, config.max_scans)
        if max_memory is not None and header.decoding_bytes > max_memory:
            return None
        return Screened(
            sha256=hashlib.sha256(encoded).digest(),
            perceptual_hash=difference_hash(encoded),
            media_type=header.media_type,
            width_px=header.width_px,
            height_px=header.height_px,
        )
    except UndecodableImage as error:
        return Verdict(state=State.FAILED, reason=error.reason, detail=str(error))


def _below(value: float | None, bound: float | None) -> bool:
    """Whether both are known and `value` is the lesser, to the precision of the list's columns."""
    return value is not None and bound is not None and bool(np.float32(value) < np.float32(bound))


def _dropped(reason: str, detail: str) -> Verdict:
    return Verdict(state=State.DROPPED, reason=reason, detail=detail)
