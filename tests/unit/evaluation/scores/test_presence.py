import numpy as np
import pytest

from evaluation.scores.presence import Presence, judge_presence, presence_threshold


@pytest.mark.parametrize(
    ("similarities", "expected"),
    [
        ([[0.9, 0.2], [0.1, 0.8]], Presence.IN_PLACE),
        ([[0.1, 0.8], [0.9, 0.2]], Presence.SWAPPED),
        ([[0.9, 0.2], [0.3, 0.4]], Presence.MISSING),
        ([[0.2, 0.3], [0.1, 0.2]], Presence.MISSING),
        ([[0.7, 0.6], [0.3, 0.1]], Presence.MERGED),
        ([[0.9, 0.8], [0.7, 0.9]], Presence.IN_PLACE),  # two dogs that look alike
        ([[0.55, 0.95], [0.3, 0.55]], Presence.IN_PLACE),  # exchanged, the second region would show nothing
    ],
)
def test_two_subjects(similarities: list[list[float]], expected: Presence) -> None:
    assert judge_presence(np.array(similarities), 0.5) is expected


def test_one_subject_is_there_or_not() -> None:
    assert judge_presence(np.array([[0.5]]), 0.5) is Presence.IN_PLACE
    assert judge_presence(np.array([[0.49]]), 0.5) is Presence.MISSING


def test_three_subjects_of_which_two_changed_places() -> None:
    similarities = np.array([[0.9, 0.1, 0.1], [0.1, 0.2, 0.8], [0.1, 0.7, 0.2]])
    assert judge_presence(similarities, 0.5) is Presence.SWAPPED
    assert judge_presence(similarities[[0, 2, 1]], 0.5) is Presence.IN_PLACE


def test_threshold_lies_between_one_subject_and_two() -> None:
    assert 0.4 < presence_threshold(np.array([0.7, 0.8, 0.9]), np.array([0.1, 0.3, 0.4])) < 0.7


def test_threshold_makes_the_fewest_errors_where_the_two_overlap() -> None:
    """At .5 to .6 one of four photos of the same subject and none of the four others is wrong."""
    found = presence_threshold(np.array([0.3, 0.6, 0.7, 0.8]), np.array([0.1, 0.2, 0.4, 0.5]))
    assert 0.5 < found < 0.6
