import numpy as np
import pytest

from evaluation.protocols import Average
from evaluation.scores.averages import figure, figures_by_group, interval, shares_by_subject
from tests.unit.evaluation.scores.rows import score

# The cat has two images against 4 photos each, the dog one image against 6.
SCORES = [score("cat", 0.2, 4), score("cat", 0.4, 4), score("dog", 0.9, 6, "outfit")]


def test_macro_average_weights_subjects_equally() -> None:
    found = figure(SCORES, Average.MACRO)
    assert found is not None
    assert found.value == pytest.approx((0.3 + 0.9) / 2)
    assert (found.images, found.subjects) == (3, 2)


def test_micro_average_weights_pairs_of_images_equally() -> None:
    found = figure(SCORES, Average.MICRO)
    assert found is not None
    assert found.value == pytest.approx((0.2 * 4 + 0.4 * 4 + 0.9 * 6) / 14)


def test_an_image_without_a_score_is_left_out_and_not_counted() -> None:
    found = figure([*SCORES, score("dog", None, 6)], Average.MACRO)
    assert found is not None
    assert found.value == pytest.approx(0.6)
    assert found.images == 3


def test_no_scores_give_no_figure() -> None:
    assert figure([score("cat", None)], Average.MACRO) is None
    assert figure([], Average.MICRO) is None


def test_averages_by_kind_of_prompt() -> None:
    found = figures_by_group(SCORES, Average.MACRO)
    assert {group: one.value for group, one in found.items()} == pytest.approx({"outfit": 0.9, "place": 0.3})


def test_interval_is_that_of_the_mean_over_subjects() -> None:
    """Against the normal approximation: 1.96 standard errors of the mean of 100 subjects."""
    values = np.random.default_rng(3).normal(0.5, 0.1, 100)
    low, high = interval([(value, 1.0) for value in values])
    reach = 1.96 * values.std() / 10
    assert (low, high) == pytest.approx((values.mean() - reach, values.mean() + reach), abs=0.002)


def test_interval_resamples_subjects_not_images() -> None:
    """A thousand equal images of two subjects still are two subjects."""
    many = [score("cat", 0.0)] * 500 + [score("dog", 1.0)] * 500
    found = figure(many, Average.MACRO)
    assert found is not None
    assert (found.low, found.high) == (0.0, 1.0)


def test_the_order_of_rows_changes_nothing() -> None:
    assert figure(SCORES, Average.MICRO) == figure(SCORES[::-1], Average.MICRO)
    assert list(shares_by_subject(SCORES[::-1], Average.MACRO)) == ["cat", "dog"]


def test_a_share_of_none_keeps_its_doubt() -> None:
    """No hit in 20 images: Wilson's interval ends at 3.84 / 23.84."""
    found = figure([score(f"subject{number}", 0.0) for number in range(20)], Average.MACRO)
    assert found is not None
    assert (found.value, found.low, found.high) == (0.0, 0.0, pytest.approx(0.161, abs=0.001))
