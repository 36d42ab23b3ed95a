"""Each rule of App. B.1 at its threshold, and what holds of all of them together."""

import math
import random
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from labeling.config import BoxRules, RulesConfig
from labeling.rules import RULE_NAMES, broken_box_rules, broken_rules
from labeling.sdd.schema import Box, Candidate, Entities
from labeling.sdd.shards import ShardStore
from tests.factories import candidate, key

WIDTH, HEIGHT = 1000, 1000
PAPER = RulesConfig()


def found(box=(0, 0, 300, 300), *, fill=1.0, **rest) -> Candidate:
    return candidate(box, fill=fill, size=(WIDTH, HEIGHT), **rest)


def broken(*candidates, rules=PAPER):
    return broken_rules(candidates, WIDTH, HEIGHT, rules)


def side_by_side(count, label="dog"):
    return [found((180 * (i % 5), 300 * (i // 5), 180 * (i % 5) + 280, 300 * (i // 5) + 280)) for i in range(count)]


AT_THE_THRESHOLD = {
    # rule: (candidates of which the last obeys it at its limit, candidates of which the last just breaks it)
    "aspect_ratio": [
        ([found((0, 0, 300, 1000))], [found((0, 0, 299, 1000))]),
        ([found((0, 0, 900, 300))], [found((0, 0, 901, 300))]),
    ],
    "box_share": [
        ([found((0, 0, 200, 250))], [found((0, 0, 200, 249))]),
        ([found((0, 0, 1000, 700))], [found((0, 0, 1000, 701))]),
    ],
    "overlap": [
        (
            [found((0, 0, 500, 500), score=0.9), found((0, 0, 500, 400), score=0.8)],
            [found((0, 0, 500, 500), score=0.9), found((0, 0, 500, 401), score=0.8)],
        )
    ],
    "repeats": [(side_by_side(5), side_by_side(6))],
    "low_score": [([found(score=0.2)], [found(score=0.1999)])],
    "no_mask": [([found(fill=1.0)], [found(fill=0.0)])],
    "thin_mask": [([found((0, 0, 300, 500), fill=0.6)], [found((0, 0, 300, 500), fill=0.598)])],
}


def test_every_rule_has_a_case():
    assert tuple(AT_THE_THRESHOLD) == RULE_NAMES


@pytest.mark.parametrize(
    ("rule", "obeys", "breaks"), [(rule, *case) for rule, cases in AT_THE_THRESHOLD.items() for case in cases]
)
def test_a_rule_turns_at_its_threshold(rule, obeys, breaks):
    assert broken(*obeys)[-1] == ()
    assert broken(*breaks)[-1] == (rule,)


def test_of_two_that_overlap_the_lower_score_goes():
    low, high = found((0, 0, 500, 500), score=0.7), found((0, 0, 500, 490), score=0.8)
    assert broken(low, high) == [("overlap",), ()]
    assert broken(high, low) == [(), ("overlap",)]


def test_more_than_five_of_a_label_go_all_and_no_other_label_does():
    other = found((0, 600, 300, 900), label="cat")
    assert broken(*side_by_side(6), other) == [("repeats",)] * 6 + [()]


def test_a_rule_judges_against_candidates_that_other_rules_refuse():
    refused = found((0, 0, 500, 500), score=0.9, fill=0.1)
    assert broken(refused, found((0, 0, 500, 480), score=0.5)) == [("thin_mask",), ("overlap",)]


def test_each_candidate_has_all_rules_that_it_breaks():
    assert broken(found((0, 0, 10, 100), score=0.1, fill=0.2)) == [
        ("aspect_ratio", "box_share", "low_score", "thin_mask")
    ]


def test_mask_pixels_outside_the_box_count_for_rule_6():
    inside = found((0, 0, 300, 500), fill=0.59)
    assert broken(inside) == [("thin_mask",)]
    spilled = replace(inside, segment=replace(inside.segment, area_px=inside.segment.area_px + 2_000))
    assert broken(spilled) == [()]


def test_equal_scores_are_ranked_by_what_they_are():
    a, b = found((0, 0, 500, 500), score=0.5), found((0, 0, 500, 490), score=0.5)
    assert broken(a, b) == broken(b, a)[::-1]
    assert sorted(broken(a, b)) == [(), ("overlap",)]


def test_of_equal_candidates_one_stays():
    twin = found()
    assert sorted(broken(twin, replace(twin), replace(twin))) == [(), ("overlap",), ("overlap",)]


ODD = [math.nan, math.inf, -math.inf]


@given(coordinates=st.lists(st.sampled_from([*ODD, 0.0, 300.0]), min_size=4, max_size=4), score=st.sampled_from(ODD))
def test_boxes_and_scores_that_are_no_numbers_are_refused_and_cost_no_neighbour(coordinates, score):
    good = found((100, 100, 400, 400), score=0.5)
    box = Box(**dict(zip(("x0", "y0", "x1", "y1"), coordinates, strict=True)))
    odd = replace(good, box=box, score=1.0, label="cat")
    if not np.isfinite(coordinates).all():
        assert broken(odd, good)[0] != ()
    assert broken(odd, good)[1] == ()
    assert broken(replace(good, score=math.nan))[0] == ("low_score",)
    assert broken(replace(good, score=score), good)[0] != () or score == math.inf


@pytest.mark.parametrize("box", [(5, 5, 5, 5), (5, 5, 5, 300), (5, 5, 300, 5), (300, 300, 5, 5), (9, 300, 300, 9)])
def test_boxes_without_area_are_refused(box):
    flat = replace(found(), box=Box(**dict(zip(("x0", "y0", "x1", "y1"), box, strict=True))))
    assert broken(flat)[0] != ()


def edges(limit):
    return st.tuples(st.integers(0, limit), st.integers(0, limit)).map(sorted)


@st.composite
def candidates(draw, least=0):
    """Candidates on a coarse grid, so that equal boxes, equal scores and exact limits are common.

    Equal detections have equal masks, as a segmenter gives them.
    """
    result, fills = [], {}
    for _ in range(draw(st.integers(least, 9))):
        (x0, x1), (y0, y1) = draw(edges(20)), draw(edges(20))
        score = draw(st.sampled_from([0.0, 0.1, 0.2, 0.3, 0.7, 0.7000001, 1.0]))
        label = draw(st.sampled_from(["dog", "cat"]))
        box = tuple(50 * v for v in (x0, y0, x1, y1))
        fill = fills.setdefault((box, score, label), draw(st.sampled_from([0.0, 0.4, 0.6, 1.0])))
        result.append(found(box, fill=fill, score=score, label=label))
    return result


SETTINGS = {
    "min_aspect": [0.1, 0.3, 0.5, 1.0],
    "max_aspect": [1.0, 2.0, 3.0, 10.0],
    "min_box_share": [0.0, 0.05, 0.1, 0.25],
    "max_box_share": [0.25, 0.7, 1.0],
    "max_iou": [0.0, 0.5, 0.8, 1.0],
    "max_repeats": [1, 3, 5, 9],
    "min_score": [0.0, 0.2, 0.3, 0.7],
    "min_mask_fill": [0.0, 0.4, 0.6, 1.0],
}
RAISED_IS_TIGHTER = {"min_aspect", "min_box_share", "min_score", "min_mask_fill"}


def settings(names=tuple(SETTINGS)):
    return st.fixed_dictionaries({name: st.sampled_from(SETTINGS[name]) for name in names})


@given(some=candidates(), rules=settings(), seed=st.integers(0, 1000))
def test_verdicts_follow_the_candidate_not_its_place(some, rules, seed):
    order = list(range(len(some)))
    random.Random(seed).shuffle(order)
    shuffled = [some[i] for i in order]
    before, after = broken(*some, rules=RulesConfig(**rules)), broken(*shuffled, rules=RulesConfig(**rules))

    def by_candidate(those, verdicts):
        return sorted(zip(map(repr, those), verdicts, strict=True))

    assert by_candidate(some, before) == by_candidate(shuffled, after)


@given(some=candidates(), rules=settings())
def test_a_tighter_setting_never_keeps_more(some, rules):
    for name, values in SETTINGS.items():
        for loose, tight in pairwise(values if name in RAISED_IS_TIGHTER else values[::-1]):
            before = broken(*some, rules=RulesConfig(**{**rules, name: loose}))
            after = broken(*some, rules=RulesConfig(**{**rules, name: tight}))
            assert all(set(b) - {"no_mask"} <= set(a) for b, a in zip(before, after, strict=True))
            assert all(a for b, a in zip(before, after, strict=True) if b)


@given(some=candidates(least=1), rules=settings(), looser=settings(tuple(BoxRules.model_fields)))
def test_the_floor_costs_nothing_that_rules_within_it_would_keep(some, rules, looser):
    floor = BoxRules(**{n: (min if n in RAISED_IS_TIGHTER else max)(rules[n], looser[n]) for n in looser})
    rules = RulesConfig(**rules)
    assert rules.looser_than(floor) == []
    under = broken_box_rules(some, WIDTH, HEIGHT, floor)
    built = [replace(c, segment=None) if names else c for c, names in zip(some, under, strict=True)]
    assert [not names for names in broken(*some, rules=rules)] == [not names for names in broken(*built, rules=rules)]


def test_a_box_under_the_floor_is_not_blamed_for_its_want_of_a_mask_too():
    narrow = found((0, 0, 150, 700), fill=0.0)
    assert narrow.segment is None
    assert broken(narrow) == [("aspect_ratio",)]


def test_looser_names_every_setting():
    loosest = {n: v[0] if n in RAISED_IS_TIGHTER else v[-1] for n, v in SETTINGS.items() if n in BoxRules.model_fields}
    assert sorted(RulesConfig(**loosest).looser_than(BoxRules())) == sorted(BoxRules.model_fields)
    assert RulesConfig().looser_than(BoxRules()) == []


def stored(root, candidates):
    store = ShardStore(str(root))
    row = Entities(key=key(1), candidates=tuple(candidates))
    store.write("entities", "shard-00000", [row], Entities, "stamp", replace=True)
    (read,) = store.read(Entities, ["entities"], "shard-00000")
    return read.candidates


@pytest.mark.parametrize("limit", [0.1, 0.2, 0.3, 0.6, 0.7, 0.9])
def test_a_score_at_its_limit_stays_when_it_is_written_as_32_bits(tmp_path, limit):
    rules = RulesConfig(min_score=limit)
    (read,) = stored(tmp_path, [found(score=limit)])
    assert broken(read, rules=rules) == [()]
    (below,) = stored(tmp_path, [found(score=limit - 1e-6)])
    assert broken(below, rules=rules) == [("low_score",)]


def test_storage_changes_no_verdict(tmp_path):
    rng = np.random.default_rng(0)
    some = []
    for i in range(400):
        x0, y0 = rng.uniform(0, 600, 2)
        height = rng.uniform(10, 400)
        width = height * rng.choice([0.3, 3.0, 1.0])
        box = Box(x0=float(x0), y0=float(y0), x1=float(x0 + width), y1=float(y0 + height))
        area = math.floor(box.area_px * 0.6) + int(rng.integers(2))
        made = found(label=f"label {i // 4}", score=float(rng.choice([0.2, 0.2 - 1e-9, 0.7])))
        some.append(replace(made, box=box, segment=replace(made.segment, area_px=area)))
    assert broken(*some) == broken(*stored(tmp_path, some))
