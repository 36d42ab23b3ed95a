"""Search for similar 64-bit hashes among millions, exact for any Hamming radius.

The bits are divided into radius + k chunks. Two hashes that differ in at most `radius` bits agree on at least k whole
chunks, so it suffices to compare hashes that agree on one of the choices of k chunks (Norouzi et al., "Fast Search in
Hamming Space with Multi-Index Hashing", 2012, has the case k = 1). A larger k makes more choices and smaller buckets.
"""

from collections.abc import Iterator
from itertools import combinations
from math import ceil, log2

import numpy as np
from numpy.typing import NDArray

BITS = 64
MAX_AGREEING = 4
"""Most chunks that a mask joins: with more, the masks outnumber what smaller buckets save."""
Hashes = NDArray[np.uint64]
Indices = NDArray[np.int64]


def earliest_similar(hashes: Hashes, radius: int) -> Indices:
    """Return for each hash the index of the earliest one that differs in at most `radius` bits: its own if none is.

    Args:
        hashes: hashes [n], the earliest first.
        radius: largest number of bits in which similar hashes differ, at most 32.
    """
    unique, first, inverse = np.unique(hashes, return_index=True, return_inverse=True)
    earliest = first.copy()
    if radius:
        for mask in chunk_masks(radius, len(unique)):
            _link(unique, mask, radius, first, earliest)
    return earliest[inverse]


def chunk_masks(radius: int, hashes: int) -> Iterator[np.uint64]:
    """Yield the masks of the chunks on which similar hashes may agree, with buckets of about eight random hashes."""
    key_bits = max(1.0, log2(max(hashes, 2)) - 3)
    agreeing = min(MAX_AGREEING, max(1, ceil(radius * key_bits / (BITS - key_bits))))
    chunks = radius + agreeing
    # Bits of one chunk lie far apart in the image, so that they are less alike than neighbours.
    whole = [sum(1 << bit for bit in range(chunk, BITS, chunks)) for chunk in range(chunks)]
    return (np.uint64(sum(chosen)) for chosen in combinations(whole, agreeing))


def _link(unique: Hashes, mask: np.uint64, radius: int, first: Indices, earliest: Indices) -> None:
    """Lower `earliest` of all similar hashes that agree on the bits of `mask`.

    Hashes that agree are neighbours once they are sorted by these bits. They are compared with the next one, then with
    the one after that, and so on, until no bucket is as long.
    """
    order = np.argsort(unique & mask)
    hashes, ranks = unique[order], first[order]
    keys = hashes & mask
    left = np.flatnonzero(keys[1:] == keys[:-1])
    offset = 1
    while left.size:
        right = left + offset
        near = np.bitwise_count(hashes[left] ^ hashes[right]) <= radius
        one, other = left[near], right[near]
        np.minimum.at(earliest, order[one], ranks[other])
        np.minimum.at(earliest, order[other], ranks[one])
        offset += 1
        left = left[left < len(keys) - offset]
        left = left[keys[left] == keys[left + offset]]
