"""Proportions and intervals of a stratified sample against formulas, textbooks and repeated sampling."""

import numpy as np
import pytest

from infra.intervals import wilson_interval
from labeling.quality.estimate import FILTERED, Stratum, estimate, table_6
from labeling.quality.gallery import examples
from labeling.quality.marks import AuditedImage, Mark
from tests.factories import key


def test_one_large_stratum_gives_wilsons_interval():
    value, low, high = estimate([Stratum(images=10**9, marked=263, hits=81)])
    expected = wilson_interval(81 / 263 * 262, 262)  # of one image less: a sample's variance is divided by n - 1
    assert value == pytest.approx(81 / 263)
    assert (low, high) == (pytest.approx(expected[0]), pytest.approx(expected[1]))


def test_strata_are_weighted_with_their_sizes():
    value, low, high = estimate([Stratum(900, 30, 30), Stratum(100, 30, 0)])
    assert value == pytest.approx(0.9)
    size = 1 / (0.9**2 * (1 - 30 / 900) / 30 + 0.1**2 * (1 - 30 / 100) / 30)  # strata without spread
    assert (low, high) == pytest.approx(wilson_interval(0.9 * size, size))


def test_a_single_image_of_a_small_stratum_does_not_widen_the_interval():
    alone = estimate([Stratum(10_000, 300, 0)])
    assert alone[2] < 0.013  # the rule of three: 3.8 / 300
    assert estimate([Stratum(10_000, 300, 0), Stratum(1, 1, 0)])[2] == pytest.approx(alone[2], rel=1e-3)
    half = estimate([Stratum(10, 5, 2)])
    assert estimate([Stratum(10, 5, 2), Stratum(1, 1, 0)])[2] < half[2]


def test_a_proportion_of_images_that_are_all_marked_is_counted():
    assert estimate([Stratum(20, 20, 5), Stratum(1, 1, 0)]) == (pytest.approx(5 / 21),) * 3
    assert estimate([Stratum(20, 20, 0)]) == (0, 0, 0)


def test_the_standard_error_is_that_of_cochrans_formula():
    """Cochran (1977), Sec. 5.10: the sum of W_h^2 (1 - f_h) p_h q_h / (n_h - 1)."""
    strata = [Stratum(1550, 100, 62), Stratum(620, 50, 10), Stratum(930, 75, 30)]
    value, low, high = estimate(strata)
    assert value == pytest.approx(0.5 * 0.62 + 0.2 * 0.2 + 0.3 * 0.4)
    variance = (
        0.25 * (1 - 100 / 1550) * 0.62 * 0.38 / 99
        + 0.04 * (1 - 50 / 620) * 0.2 * 0.8 / 49
        + 0.09 * (1 - 75 / 930) * 0.4 * 0.6 / 74
    )
    assert (high - low) / 2 == pytest.approx(1.959964 * variance**0.5, rel=0.02)


def test_a_marked_stratum_does_not_speak_for_an_unmarked_one():
    assert estimate([Stratum(10, 0, 0)]) == (0.0, 0.0, 1.0)
    assert estimate([Stratum(1000, 0, 0), Stratum(10, 10, 5)])[0] == 0.5


def test_a_stratum_with_a_single_mark_widens_the_interval():
    single = estimate([Stratum(500, 40, 20), Stratum(500, 1, 1)])
    several = estimate([Stratum(500, 40, 20), Stratum(500, 40, 40)])
    assert single[2] - single[1] > 2 * (several[2] - several[1])


def test_the_interval_covers_the_truth_as_often_as_it_says():
    rng = np.random.default_rng(0)
    sizes, shares, drawn = (4000, 2000, 400), (0.5, 0.15, 0.9), (60, 30, 10)
    truth = sum(n * p for n, p in zip(sizes, shares, strict=True)) / sum(sizes)
    covered = 0
    for _ in range(2000):
        populations = zip(sizes, shares, drawn, strict=True)
        hits = [rng.hypergeometric(round(n * p), n - round(n * p), m) for n, p, m in populations]
        _, low, high = estimate([Stratum(*each) for each in zip(sizes, drawn, map(int, hits), strict=True)])
        covered += low <= truth <= high
    assert 0.93 <= covered / 2000 <= 0.97


def audited(number: int, state: str, mark: Mark | None, stratum_images: int) -> AuditedImage:
    return AuditedImage(
        key=key(number),
        shard="shard-00000",
        state=state,
        stratum=state,
        stratum_images=stratum_images,
        mark=mark,
        author="eve",
        made_at=None,
    )


def test_table_6_is_a_division_of_all_judged_images():
    """The paper's row: 18 %, 20 % and 14 % of the images, and 48 % filtered out."""
    marks = [Mark.HIGH_QUALITY] * 18 + [Mark.LOW_RECALL] * 20 + [Mark.OTHER] * 14
    images = [audited(n, "kept", mark, 5200) for n, mark in enumerate(marks)]
    marks = [Mark.WRONGLY_DROPPED] * 3 + [Mark.RIGHTLY_DROPPED] * 45
    images += [audited(100 + n, "dropped", mark, 4800) for n, mark in enumerate(marks)]
    rows = {row.name: row for row in table_6(images)}
    shares = {name: round(row.value, 6) for name, row in rows.items()}
    assert shares == {"high_quality": 0.18, "low_recall": 0.2, "other": 0.14, FILTERED: 0.48, "wrongly_dropped": 3 / 48}
    assert rows["high_quality"].low < 0.18 < rows["high_quality"].high < 0.52
    assert (rows["wrongly_dropped"].of, rows["wrongly_dropped"].marked) == ("dropped", 48)


def test_examples_are_the_first_of_each_mark():
    images = [audited(n, "kept", [Mark.OTHER, None, Mark.LOW_RECALL][n % 3], 9) for n in range(9)]
    found = examples(images, 2)
    assert {mark: [image.key for image in each] for mark, each in found.items() if each} == {
        Mark.OTHER: [key(0), key(3)],
        Mark.LOW_RECALL: [key(2), key(5)],
    }
