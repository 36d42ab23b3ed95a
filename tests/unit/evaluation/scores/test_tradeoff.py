from evaluation.scores.tradeoff import Point, pareto_front


def test_settings_that_no_other_beats() -> None:
    weak, balanced, strong = Point("weak", 0.31, 0.5), Point("balanced", 0.30, 0.6), Point("strong", 0.25, 0.7)
    beaten, tied = Point("beaten", 0.29, 0.6), Point("tied", 0.30, 0.6)
    worse = Point("a worse one", 0.30, 0.55)
    assert pareto_front([worse, strong, beaten, weak, tied, balanced]) == [weak, balanced, strong]
    assert pareto_front([]) == []
