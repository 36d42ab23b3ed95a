"""What is worth fetching, judged by the list, and what is worth keeping, judged by the bytes that came."""

import hashlib
from collections.abc import Collection
from dataclasses import dataclass

import numpy as np

from labeling.config import DownloadConfig
from labeling.imaging import difference_hash, probe, refuse_scans
from labeling.sdd.pixels import UndecodableImage
from labeling.sdd.schema import ListedUrl, State, Verdict
from labeling.url_list import key_of


@dataclass(frozen=True, slots=True, kw_only=True)
class Screened:
    """What was found out about an image that is kept."""

    sha256: bytes
    perceptual_hash: int
    media_type: str
    width_px: int
    height_px: int


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


def screen(encoded: bytes, config: DownloadConfig) -> Screened | Verdict:
    """What an answer's body is, decoded once; or why it is not kept.

    Paper: App. B.1, small side greater than 1024, of the upright image.
    """
    if not encoded:
        return Verdict(state=State.FAILED, reason="empty", detail="the answer had no body")
    try:
        header = probe(encoded)
        if min(header.width_px, header.height_px) < config.min_side_px:
            return _dropped("small_image", f"{header.width_px}x{header.height_px}")
        refuse_scans(encoded, config.max_scans)
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
