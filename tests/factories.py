"""Small valid objects. Each takes what the test is about and fills in the rest."""

import hashlib
import io
from collections.abc import Sequence
from typing import Any

import numpy as np
from PIL import Image as Pillow

from labeling.sdd import masks
from labeling.sdd.schema import Box, Candidate, Image, ListedUrl, Segment
from labeling.sdd.shards import Refused, ShardStore


def key(number: int) -> bytes:
    """A key that sorts by `number`."""
    return number.to_bytes(16, "big")


def jpeg(seed: int = 0, size: tuple[int, int] = (64, 48)) -> bytes:
    """A decodable JPEG of (width, height), different for each seed."""
    pixels = np.random.default_rng(seed).integers(0, 256, (6, 8, 3), dtype=np.uint8)
    file = io.BytesIO()
    Pillow.fromarray(pixels).resize(size).save(file, "JPEG")
    return file.getvalue()


def listed(number: int, url: str | None = None) -> ListedUrl:
    return ListedUrl(
        key=key(number),
        list_row=number,
        url=url or f"https://example.com/{number}.jpg",
        alt_text=None,
        similarity=None,
        laion_hash=None,
        punsafe=None,
        pwatermark=None,
        aesthetic_score=None,
        listed_width_px=None,
        listed_height_px=None,
    )


def image(number: int, encoded: bytes | None = None, url: str | None = None) -> Image:
    encoded = jpeg(number) if encoded is None else encoded
    return Image(
        key=key(number),
        url=url or f"https://example.com/{number}.jpg",
        alt_text=None,
        similarity=None,
        punsafe=None,
        pwatermark=None,
        aesthetic_score=5.5,
        sha256=hashlib.sha256(encoded).digest(),
        perceptual_hash=0,
        media_type="image/jpeg",
        width_px=64,
        height_px=48,
        image=encoded,
    )


def candidate(
    box: tuple[float, float, float, float] = (10, 10, 50, 50),
    *,
    fill: float = 1.0,
    label: str = "dog",
    score: float = 0.9,
    size: tuple[int, int] = (100, 80),
) -> Candidate:
    """A candidate in an image of (width, height) `size` whose mask covers the upper `fill` of its box."""
    x0, y0, x1, y1 = box
    mask = np.zeros(size[::-1], bool)
    mask[int(y0) : int(y0 + (y1 - y0) * fill), int(x0) : int(x1)] = True
    segment = None
    if mask.any():
        segment = Segment(mask=masks.encode(mask), area_px=int(mask.sum()), predicted_iou=0.9, stability=0.95)
    return Candidate(
        label=label, start=2, end=2 + len(label), score=score, box=Box(x0=x0, y0=y0, x1=x1, y1=y1), segment=segment
    )


def downloaded(root: Any, outcomes: Sequence[Image | Refused], shard: str = "shard-00000") -> ShardStore:
    """A dataset folder with urls/ and images/ of one shard, as if these had been downloaded."""
    store = ShardStore(str(root))
    urls = [listed(int.from_bytes(o.key, "big"), getattr(o, "url", None)) for o in outcomes]
    store.write("urls", shard, urls, ListedUrl, "list")
    store.write_outcomes("images", shard, outcomes, Image, "downloaded")
    return store
