"""Two-subject lists as published."""

import pytest

from evaluation.benchmarks.catalog import load_benchmark
from tests.unit.evaluation.benchmarks.test_dreambench import digest


def pairs(name):
    return list(dict.fromkeys(case.subjects for case in load_benchmark(name).cases))


def prompts(name):
    return {case.name: case.prompt for case in load_benchmark(name).cases}


def test_table_8_has_30_pairs_of_which_three_occur_twice():
    published = pairs("dreambench-pairs")
    assert len(published) == 30
    assert load_benchmark("dreambench-pairs").image_count == 4500
    reversed_later = [pair for i, pair in enumerate(published) if pair[::-1] in published[:i]]
    assert reversed_later == [("can", "duck_toy"), ("poop_emoji", "shiny_sneaker"), ("dog8", "dog6")]


def test_unique_pairs_are_table_8_without_the_reversed_ones():
    unique = pairs("dreambench-pairs-unique")
    assert len(unique) == len({frozenset(pair) for pair in unique}) == 27
    assert set(unique) < set(pairs("dreambench-pairs"))
    assert load_benchmark("dreambench-pairs-unique").image_count == 27 * 25 * 6


def test_table_8_uses_26_subjects():
    unused = load_benchmark("dreambench").subjects.keys() - load_benchmark("dreambench-pairs").subjects.keys()
    assert unused == {"dog", "monster_toy", "rc_car", "red_cartoon"}


def test_the_paper_joins_two_subjects_with_and():
    ours = prompts("dreambench-pairs")
    assert ours["backpack+can/00"] == "a backpack and a can in the jungle"
    assert ours["teapot+backpack_dog/20"] == "a red teapot and a red backpack"
    assert ours["cat+dog2/10"] == "a cat and a dog wearing a red hat"


def test_the_first_21_pairs_get_the_prompts_of_objects():
    outfits = {case.subjects for case in load_benchmark("dreambench-pairs").cases if case.group == "outfit"}
    assert outfits == set(pairs("dreambench-pairs")[21:])


def test_uno_pairs_equal_the_published_list():
    """The digest is that of sorted `prompt<TAB>image<TAB>image` lines of dreambench_multiip.json at d305981."""
    uno = load_benchmark("uno-pairs")
    lines = ["\t".join([case.prompt, *(uno.subjects[n].input_image for n in case.subjects)]) for case in uno.cases]
    assert len(lines) == 750
    assert digest(lines) == "da655a556c123310cc5d6e68cf6c4b7d07c3b145cd85da727a7762b5a1e59d8e"


def test_uno_dresses_the_first_of_two_animals():
    ours = prompts("uno-pairs")
    assert ours["cat+dog/00"] == "a cat and a dog in the jungle"
    assert ours["cat+dog/10"] == "a cat wearing a red hat, next to it is a dog"
    assert ours["berry_bowl+can/20"] == "a red bowl and a red can"


@pytest.mark.parametrize("name", ["dreambench-pairs", "dreambench-pairs-unique", "uno-pairs"])
def test_each_case_has_two_subjects(name):
    assert {len(set(case.subjects)) for case in load_benchmark(name).cases} == {2}
