"""FastComposer's human list as published."""

from collections import Counter

from evaluation.benchmarks.catalog import load_benchmark


def test_counts_are_those_of_the_publication():
    human = load_benchmark("human")
    assert Counter(subject.class_name for subject in human.subjects.values()) == {"man": 6, "woman": 9}
    assert len(human.cases) == 15 * 40
    assert human.image_count == 2400
    assert Counter(case.group.value for case in human.cases) == dict.fromkeys(
        ("outfit", "style", "action", "place"), 150
    )


def test_prompts_follow_fastcomposers_order_of_groups_and_identities():
    human = load_benchmark("human")
    assert [case.subjects[0] for case in human.cases[::40]] == sorted(human.subjects)
    first = [case.prompt for case in human.cases[:40]]
    assert first[0] == "a man wearing a red hat"
    assert first[10] == "a painting of a man in the style of Banksy"
    assert first[29] == "a man baking cookies"
    assert first[39] == "a man on top of a purple rug in a forest"
