"""Cosine similarities of embeddings, in double precision."""

import numpy as np
from jaxtyping import Float

Vectors = Float[np.ndarray, "N D"]
"""Embeddings, one a row."""


def cosine_similarities(left: Float[np.ndarray, "N D"], right: Float[np.ndarray, "R D"]) -> Float[np.ndarray, "N R"]:
    """Return the cosine of each left with each right embedding, -1 to 1. A vector of zeros is like none: 0."""
    return np.asarray(_normalize(left) @ _normalize(right).T)


def mean_off_diagonal(similarities: Float[np.ndarray, "N N"]) -> float:
    """Return the mean similarity of different images of one subject (i ≠ j): the bound that real images set.

    Raises:
        ValueError: there are fewer than two images.
    """
    count = len(similarities)
    if count < 2:
        raise ValueError(f"{count} image: the similarity of different images takes two")
    return float((similarities.sum() - np.trace(similarities)) / (count * (count - 1)))


def _normalize(vectors: Vectors) -> Vectors:
    vectors = np.asarray(vectors, dtype=np.float64)
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    return np.asarray(np.divide(vectors, lengths, out=np.zeros_like(vectors), where=lengths > 0))
