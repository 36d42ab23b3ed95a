import numpy as np
import pytest

from evaluation.scores.paired import compare

ONE = {f"subject{number}": (0.1 * number, 1.0) for number in range(6)}


def shifted(by: float) -> dict[str, tuple[float, float]]:
    return {name: (value + by, weight) for name, (value, weight) in ONE.items()}


def test_a_constant_gain_is_found_with_few_subjects() -> None:
    found = compare(ONE, shifted(0.02))
    assert (found.first, found.second, found.difference) == pytest.approx((0.25, 0.27, 0.02))
    assert (found.low, found.high) == pytest.approx((0.02, 0.02))
    assert found.differs
    assert found.p_value == pytest.approx(2 / 2**6)  # all signs as observed, or all turned


def test_equal_models_do_not_differ() -> None:
    found = compare(ONE, ONE)
    assert (found.difference, found.p_value, found.differs) == (0.0, 1.0, False)


def test_signs_by_hand() -> None:
    """Differences +3, +1, -1: of the eight sums, ±3 ±1 ±1, six are at least 3 away from 0."""
    first = {"a": (0.0, 1.0), "b": (0.0, 1.0), "c": (0.0, 1.0)}
    second = {"a": (3.0, 1.0), "b": (1.0, 1.0), "c": (-1.0, 1.0)}
    assert compare(first, second).p_value == pytest.approx(6 / 8)


def test_more_subjects_than_all_exchanges_can_be_tried_of() -> None:
    """Of 40 subjects with noise larger than the difference, p is near that of a t test (two-sided, normal)."""
    draw = np.random.default_rng(1)
    first = {f"s{number:02}": (0.0, 1.0) for number in range(40)}
    differences = draw.normal(0.0, 1.0, 40)
    differences += 0.3 - differences.mean()
    second = {name: (float(value), 1.0) for name, value in zip(first, differences, strict=True)}
    found = compare(first, second)
    z = 0.3 / (differences.std() / 40**0.5)
    assert z == pytest.approx(2.08, abs=0.2)
    assert found.p_value == pytest.approx(0.04, abs=0.03)
    assert 0 < compare(first, dict.fromkeys(first, (1.0, 1.0))).p_value < 0.001


def test_pairs_weigh_in_a_micro_average() -> None:
    first = {"a": (4.0, 10.0), "b": (1.0, 5.0)}
    second = {"a": (6.0, 10.0), "b": (1.0, 5.0)}
    assert compare(first, second).difference == pytest.approx(7 / 15 - 5 / 15)


def test_other_subjects_are_refused() -> None:
    with pytest.raises(ValueError, match="in one alone: subject5"):
        compare(ONE, {name: ONE[name] for name in list(ONE)[:5]})
    with pytest.raises(ValueError, match="none in both"):
        compare({}, {})
