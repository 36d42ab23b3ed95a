import numpy as np
import pytest

from evaluation.scores.identity import identity_score

REFERENCE = np.array([3.0, 4.0])


def test_identity_of_faces() -> None:
    assert identity_score(np.array([6.0, 8.0]), REFERENCE) == pytest.approx(1)
    assert identity_score(np.array([1.0, 0.0]), REFERENCE) == pytest.approx(0.6)


def test_an_opposite_face_and_none_count_as_0() -> None:
    assert identity_score(np.array([-1.0, 0.0]), REFERENCE) == 0
    assert identity_score(None, REFERENCE) == 0
