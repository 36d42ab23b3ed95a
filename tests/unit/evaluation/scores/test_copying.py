import numpy as np
import pytest

from evaluation.scores.copying import copy_bounds, copy_scores


def test_a_copy_is_more_like_the_input_than_the_other_photos() -> None:
    to_photos = np.array([[0.9, 0.5, 0.3], [0.5, 0.6, 0.4]])
    assert copy_scores(to_photos, 0) == pytest.approx([0.5, 0.0])
    assert copy_scores(to_photos, 1) == pytest.approx([-0.1, 0.15])


def test_one_photo_is_too_few() -> None:
    with pytest.raises(ValueError, match="second photo"):
        copy_scores(np.array([[0.9]]), 0)


def test_bounds_of_real_photos() -> None:
    """Input 0. Photo 1 is .6 like it and .8 like photo 2, photo 2 is .4 and .8: the mean is (-.2 - .4) / 2."""
    photos = np.array([[1, 0.6, 0.4], [0.6, 1, 0.8], [0.4, 0.8, 1]])
    assert copy_bounds(photos, 0) == pytest.approx((-0.3, 0.5))
    assert copy_bounds(photos[:2, :2], 0) == pytest.approx((0.0, 0.4))
