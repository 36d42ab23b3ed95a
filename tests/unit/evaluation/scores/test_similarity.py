import numpy as np
import pytest

from evaluation.scores.similarity import cosine_similarities, mean_off_diagonal

EAST, NORTH, NORTH_EAST = [2.0, 0.0], [0.0, 3.0], [1.0, 1.0]


def test_cosine_of_vectors_of_any_length() -> None:
    found = cosine_similarities(np.array([EAST, NORTH]), np.array([EAST, NORTH_EAST, [-1.0, 0.0]]))
    assert found == pytest.approx(np.array([[1, 0.5**0.5, -1], [0, 0.5**0.5, 0]]))


def test_half_precision_vectors_are_compared_in_double_precision() -> None:
    vectors = np.array([[300.0, 400.0]], dtype=np.float16)  # its squared length is beyond float16
    assert cosine_similarities(vectors, vectors)[0, 0] == pytest.approx(1, abs=1e-12)


def test_a_vector_of_zeros_is_like_nothing() -> None:
    assert cosine_similarities(np.zeros((1, 2)), np.array([EAST])).tolist() == [[0.0]]


def test_real_bound_leaves_out_each_image_with_itself() -> None:
    similarities = np.array([[1, 0.2, 0.4], [0.2, 1, 0.6], [0.4, 0.6, 1]])
    assert mean_off_diagonal(similarities) == pytest.approx(0.4)
    with pytest.raises(ValueError, match="1 image"):
        mean_off_diagonal(similarities[:1, :1])
