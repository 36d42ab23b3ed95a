"""The search for similar hashes finds what a comparison of all pairs finds."""

import numpy as np
import pytest

from labeling.cleaning.near_hashes import Hashes, Indices, chunk_masks, earliest_similar


def clustered(seed: int, hashes: int = 1500, spread: int = 5) -> Hashes:
    """Hashes around a few centres, some equal, in random order."""
    rng = np.random.default_rng(seed)
    found = rng.integers(0, 2**64, hashes // 30, np.uint64).repeat(30)
    for _ in range(spread):
        flips = rng.random(hashes) < 0.5
        found[flips] ^= np.uint64(1) << rng.integers(0, 64, int(flips.sum()), np.uint64)
    return rng.permutation(found)


def compared(hashes: Hashes, radius: int) -> Indices:
    """The same by comparison of all pairs."""
    near = np.bitwise_count(hashes[:, None] ^ hashes) <= radius
    return near.argmax(axis=1)


@pytest.mark.parametrize("radius", [0, 1, 3, 6, 8, 13])
def test_the_earliest_similar_hash_is_found(radius: int) -> None:
    hashes = clustered(radius)
    earliest = earliest_similar(hashes, radius)
    assert np.array_equal(earliest, compared(hashes, radius))
    if radius in (3, 6, 8):
        assert 100 < (earliest < np.arange(len(hashes))).sum() < len(hashes) - 50


@pytest.mark.parametrize("hashes", [2, 1_000, 1_000_000, 100_000_000])
@pytest.mark.parametrize("radius", [1, 4, 8, 16])
def test_chunks_cover_every_choice_of_differing_bits(radius: int, hashes: int) -> None:
    """Any `radius` bits leave one of the masks untouched."""
    rng = np.random.default_rng(radius)
    for _ in range(20):
        bits = np.uint64(sum(1 << int(bit) for bit in rng.choice(64, radius, replace=False)))
        assert any(not mask & bits for mask in chunk_masks(radius, hashes))


def test_alike_hashes_and_none_are_no_special_case() -> None:
    assert earliest_similar(np.zeros(5, np.uint64), 4).tolist() == [0] * 5
    assert earliest_similar(np.zeros(0, np.uint64), 4).tolist() == []
