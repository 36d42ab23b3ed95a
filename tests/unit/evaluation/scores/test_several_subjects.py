import numpy as np
import pytest

from evaluation.scores.several_subjects import lowest_over_subjects, mean_over_subjects, product_over_subjects

BOTH, ONE_MISSING, NEITHER = [0.5, 0.7], [0.9, 0.3], [-0.5, -0.4]
SIMILARITIES = np.array([BOTH, ONE_MISSING, NEITHER])


def test_the_mean_hides_a_missing_subject_which_product_and_minimum_show() -> None:
    assert mean_over_subjects(SIMILARITIES) == pytest.approx([0.6, 0.6, -0.45])
    assert lowest_over_subjects(SIMILARITIES) == pytest.approx([0.5, 0.3, -0.5])
    assert product_over_subjects(SIMILARITIES) == pytest.approx([0.35, 0.27, 0.0])
