"""Images that repeat an earlier image of the dataset, across shards.

An image is compared with all images before it: those of earlier shards, and of its own shard those with more pixels.
So a shard's duplicates depend on no later shard, and a dataset that grows keeps its finished shards.

Choices:
    Images are compared that every stage kept, so a copy is not given up for one that has no caption or no box. Whether
    the rules keep the earlier image does not matter: its copies break the same rules. Of a chain of similar images the
    first one stays, even if the last one is unlike it.
"""

import hashlib
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from enum import StrEnum
from functools import partial
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from labeling.cleaning.near_hashes import Hashes, earliest_similar
from labeling.config import CleanConfig
from labeling.sdd.schema import SIMILAR, SimilarImage
from labeling.sdd.shards import ShardStore

_READERS = 8


class Likeness(StrEnum):
    """How a duplicate repeats an earlier image; the reason of its verdict."""

    DUPLICATE = "duplicate"
    """Byte for byte."""
    NEAR_DUPLICATE = "near_duplicate"
    """By its perceptual hash."""
    SIMILAR_EMBEDDING = "similar_embedding"
    """By its embedding only."""


@dataclass(frozen=True, slots=True)
class Duplicate:
    """An image that repeats an earlier one."""

    likeness: Likeness
    original: bytes
    """Key of the earlier image."""
    shard: str
    """Shard of the earlier image."""
    bits: int
    """Number of bits in which the perceptual hashes differ."""
    cosine: float | None = field(default=None, repr=False)  # not part of a stamp, as it depends on batches
    """Cosine of the embeddings of a similar image; None if another likeness was found."""

    def __str__(self) -> str:
        """Return what a person wants to know: the earlier image, and how near it is."""
        apart = f"{self.bits} bits apart" if self.cosine is None else f"cosine {self.cosine:.3f}"
        return f"of {self.original.hex()} in {self.shard}, {apart}"


Duplicates: TypeAlias = Mapping[str, Mapping[bytes, Duplicate]]
"""Duplicates by shard and key; a shard without any may be missing."""
NO_DUPLICATES: Duplicates = {}


@dataclass(frozen=True, slots=True, kw_only=True)
class Fingerprint:
    """Columns by which images are compared."""

    key: bytes
    sha256: bytes
    perceptual_hash: int
    width_px: int
    height_px: int


@dataclass(frozen=True, slots=True)
class _Images:
    """Images in the order in which they take precedence."""

    keys: list[bytes]
    shards: list[str]
    contents: list[bytes]
    """SHA-256 of each image."""
    hashes: Hashes


def find_duplicates(root: str, config: CleanConfig, layers: Sequence[str], shards: Sequence[str]) -> Duplicates:
    """Return the duplicates in these shards.

    If embeddings are compared, `similar/` must exist: see `labeling.cleaning.similar_images`.

    Args:
        root: folder of the dataset.
        config: which likeness counts.
        layers: layers from images/ to the last stage.
        shards: all shards of the dataset up to the last one that is judged, in order.
    """
    images = _read_images(ShardStore(root), layers, shards)
    exact = _earliest_equal(images.contents)
    earliest = exact
    if config.near_duplicate_bits is not None:
        earliest = np.minimum(exact, earliest_similar(images.hashes, config.near_duplicate_bits))
    cosines: dict[int, float] = {}
    if config.near_duplicate_cosine is not None:
        earliest, cosines = _with_similar(ShardStore(root), images, shards, earliest)
    found: dict[str, dict[bytes, Duplicate]] = {}
    for index in np.flatnonzero(earliest < np.arange(len(earliest))).tolist():
        found.setdefault(images.shards[index], {})[images.keys[index]] = _duplicate(
            images, index, earliest[index], cosines.get(index)
        )
    return found


def digest(duplicates: Mapping[bytes, Duplicate]) -> str:
    """Return 8 hex digits that change with the duplicates of a shard; empty if there are none."""
    return hashlib.sha256(repr(sorted(duplicates.items())).encode()).hexdigest()[:8] if duplicates else ""


def _read_images(store: ShardStore, layers: Sequence[str], shards: Sequence[str]) -> _Images:
    with ThreadPoolExecutor(_READERS) as readers:
        read = readers.map(partial(_read_shard, store, layers), shards)
        rows = [(shard, row) for shard, own in zip(shards, read, strict=True) for row in own]
    return _Images(
        keys=[row.key for _, row in rows],
        shards=[shard for shard, _ in rows],
        contents=[row.sha256 for _, row in rows],
        hashes=np.array([row.perceptual_hash for _, row in rows], np.int64).view(np.uint64),
    )


def _read_shard(store: ShardStore, layers: Sequence[str], shard: str) -> list[Fingerprint]:
    rows = store.read(Fingerprint, layers, shard)
    return sorted(rows, key=lambda row: (-row.width_px * row.height_px, row.key))


def _earliest_equal(contents: Sequence[bytes]) -> NDArray[np.int64]:
    first: dict[bytes, int] = {}
    return np.array([first.setdefault(content, index) for index, content in enumerate(contents)], np.int64)


def _with_similar(
    store: ShardStore, images: _Images, shards: Sequence[str], earliest: NDArray[np.int64]
) -> tuple[NDArray[np.int64], dict[int, float]]:
    """Return the earliest like image of each, by embeddings too, and the cosines of those that only embeddings find."""
    places = {key: index for index, key in enumerate(images.keys)}
    lowered, cosines = earliest.copy(), {}
    for shard in shards:
        for row in store.read(SimilarImage, (SIMILAR,), shard):
            index, original = places[row.key], places[row.original]
            if original < earliest[index]:
                lowered[index], cosines[index] = original, row.cosine
    return lowered, cosines


def _duplicate(images: _Images, index: int, original: int, cosine: float | None) -> Duplicate:
    equal = images.contents[index] == images.contents[original]
    likeness = Likeness.NEAR_DUPLICATE if cosine is None else Likeness.SIMILAR_EMBEDDING
    return Duplicate(
        cosine=None if equal else cosine,
        likeness=Likeness.DUPLICATE if equal else likeness,
        original=images.keys[original],
        shard=images.shards[original],
        bits=int(np.bitwise_count(images.hashes[index] ^ images.hashes[original])),
    )
