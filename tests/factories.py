"""Small valid objects. Each takes what the test is about and fills in the rest."""

import hashlib
import io
from collections.abc import Mapping, Sequence
from dataclasses import replace
from types import MappingProxyType
from typing import Any

import numpy as np
from PIL import Image as Pillow

from labeling.sdd import masks
from labeling.sdd.schema import (
    Box,
    Candidate,
    Caption,
    Detection,
    Detections,
    Entities,
    Entity,
    Image,
    ListedUrl,
    Noun,
    Nouns,
    RemovedNoun,
    SddRow,
    Segment,
    State,
    Verdict,
)
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
        label=label,
        span_start=2,
        span_end=2 + len(label),
        score=score,
        box=Box(x0=x0, y0=y0, x1=x1, y1=y1),
        segment=segment,
    )


def downloaded(
    root: Any,
    outcomes: Sequence[Image | Refused],
    shard: str = "shard-00000",
    list_stamp: str = "list",
    stamp: str = "downloaded",
) -> ShardStore:
    """A dataset folder with urls/ and images/ of one shard, as if these had been downloaded."""
    store = ShardStore(str(root))
    urls = [listed(int.from_bytes(o.key, "big"), getattr(o, "url", None)) for o in outcomes]
    store.write("urls", shard, urls, ListedUrl, list_stamp)
    store.write_outcomes("images", shard, outcomes, Image, stamp)
    return store


def refused(number: int, state: State = State.FAILED, reason: str = "ValueError") -> Refused:
    """An image that goes no further."""
    return Refused(key=key(number), verdict=Verdict(state=state, reason=reason, detail=f"detail of {number}"))


SHARD = "shard-00000"
DOG = candidate((0, 0, 20, 20), size=(64, 48))
CAT = replace(candidate((22, 0, 62, 30), label="cat", size=(64, 48)), span_start=12, span_end=15)
FOUND: dict[int, tuple[Candidate, ...]] = {
    1: (DOG,),
    2: (DOG, CAT, replace(CAT, score=0.1, box=Box(x0=0.0, y0=20.0, x1=60.0, y1=48.0))),
    3: (candidate((0, 0, 20, 20), fill=0.5, size=(64, 48)),),
    4: (candidate((0, 0, 2, 40), size=(64, 48)), candidate((0, 0, 60, 10), label="cat", size=(64, 48))),
    5: (replace(DOG, segment=None),),
    6: (),
}
"""What was found on the images of `labelled`, by number."""
REMOVED = {2: (RemovedNoun(label="photo", reason="stop_word"), RemovedNoun(label="dog", reason="repeated"))}
"""Nouns of the captions of `labelled` that are no entity tags, by number."""
REFUSED = {
    7: ("images", refused(7, State.NOT_DOWNLOADED, "http_404")),
    8: ("images", refused(8, State.DROPPED, "small_image")),
    9: ("captions", refused(9)),
    10: ("nouns", refused(10, State.DROPPED, "no_noun")),
    11: ("detections", refused(11, State.DROPPED, "no_box")),
    12: ("entities", refused(12, State.QUARANTINED, "crash")),
}
"""The layer at which an image of `labelled` ends, and why."""


def labelled(
    root: Any,
    found: Mapping[int, tuple[Candidate, ...]] = FOUND,
    refusals: Mapping[int, tuple[str, Refused]] = REFUSED,
    shard: str = SHARD,
    list_stamp: str = "list",
    stamps: Mapping[str, str] = MappingProxyType({}),
) -> ShardStore:
    """A dataset folder of one shard that lacks only sdd/ and ledger/; by default every state is ahead of it."""
    numbers = sorted({*found, *refusals})
    for layer, row in zip(("images", "captions", "nouns", "detections", "entities"), ROWS, strict=True):
        ends = {n: end for n, (at, end) in refusals.items() if at == layer}
        outcomes = [ends.get(n) or _row(row, n, found.get(n, ())) for n in numbers]
        if row is Image:
            store = downloaded(root, outcomes, shard, list_stamp, stamps.get(layer, "downloaded"))
        else:
            store.write_outcomes(layer, shard, outcomes, row, stamps.get(layer, layer))
        numbers = [n for n in numbers if n not in ends]
    return store


ROWS = (Image, Caption, Nouns, Detections, Entities)


def _row(row: type, number: int, found: Sequence[Candidate]) -> Any:
    """What a layer says of an image with these candidates."""
    if row is Image:
        return image(number)
    if row is Caption:
        return Caption(key=key(number), caption=f"a dog and a cat {number}")
    if row is Nouns:
        spans = sorted({(c.span_start, c.span_end, c.label) for c in found})
        nouns = tuple(Noun(label=n, span_start=s, span_end=e) for s, e, n in spans)
        return Nouns(key=key(number), nouns=nouns, removed_nouns=REMOVED.get(number, ()))
    if row is Detections:
        return Detections(key=key(number), detections=tuple(map(_detection, found)))
    return Entities(key=key(number), candidates=tuple(found))


def _detection(found: Candidate) -> Detection:
    """The detection that a candidate was made from."""
    return Detection(
        label=found.label, span_start=found.span_start, span_end=found.span_end, score=found.score, box=found.box
    )


def entity(box: tuple[float, float, float, float], *, label: str = "dog", size: tuple[int, int] = (64, 48)) -> Entity:
    """A subject whose mask fills its box, in an image of (width, height) `size`."""
    found = candidate(box, label=label, size=size)
    assert found.segment is not None
    return Entity(
        label=label,
        span_start=found.span_start,
        span_end=found.span_end,
        score=found.score,
        box=found.box,
        mask=found.segment.mask,
        mask_area_px=found.segment.area_px,
        predicted_iou=found.segment.predicted_iou,
        stability=found.segment.stability,
    )


def sdd_row(number: int, entities: Sequence[Entity], encoded: bytes | None = None, **others: Any) -> SddRow:
    """A row of the dataset with these subjects; its caption names a dog, a cat and a bird."""
    picture = image(number, encoded)
    return SddRow(
        **{
            "key": picture.key,
            "caption": f"a dog and a cat and a bird, number {number}",
            "entities": tuple(entities),
            "width_px": picture.width_px,
            "height_px": picture.height_px,
            "url": picture.url,
            "alt_text": None,
            "aesthetic_score": None,
            "punsafe": None,
            "pwatermark": None,
            "similarity": None,
            "sha256": picture.sha256,
            "perceptual_hash": 0,
            "media_type": picture.media_type,
            "image": picture.image,
        }
        | others
    )


def finished(root: Any, rows: Sequence[SddRow], rows_per_shard: int = 1024) -> ShardStore:
    """A dataset folder with sdd/ alone, which is all that training reads."""
    store = ShardStore(str(root))
    for shard in range(-(-len(rows) // rows_per_shard)):
        part = rows[shard * rows_per_shard : (shard + 1) * rows_per_shard]
        store.write("sdd", f"shard-{shard:05}", part, SddRow, f"stamp of {shard}")
    return store
