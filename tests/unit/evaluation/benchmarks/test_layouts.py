"""Benchmarks with preset boxes: MS-Bench as published, and the project's own list."""

from collections import Counter

import pytest

from evaluation.benchmarks.catalog import load_benchmark


@pytest.fixture(scope="module")
def ms_bench():
    return load_benchmark("ms-bench")


@pytest.fixture(scope="module")
def layout():
    return load_benchmark("layout")


def test_combinations_and_cases_of_ms_bench_have_the_published_numbers(ms_bench):
    assert len(ms_bench.subjects) == 40
    assert len({case.subjects for case in ms_bench.cases}) == 1148
    assert len(ms_bench.cases) == ms_bench.image_count == 4488


def test_order_of_subjects_does_not_make_another_combination(ms_bench):
    combinations = {case.subjects for case in ms_bench.cases}
    assert len({frozenset(subjects) for subjects in combinations}) == len(combinations)


def test_ms_bench_fills_its_templates_in_the_order_of_the_kinds(ms_bench):
    cases = {case.name: case for case in ms_bench.cases}
    assert cases["dog+hat1/01"].prompt == "a dog wearing a hat in the snow"
    assert cases["dog+hat1/01"].boxes == ((0.25, 0.25, 0.75, 0.75), (0.25, 0.0, 0.75, 0.25))
    assert cases["cat+teapot+barn/00"].prompt == "a cat and teapot with a barn in the background"
    assert cases["cap+coat+jeans/05"].prompt == "a woman wearing a cap, a coat, and a jeans on a cobblestone street"


def test_layout_has_as_many_cases_of_one_two_and_three_subjects(layout):
    assert Counter(len(case.subjects) for case in layout.cases) == {1: 180, 2: 180, 3: 180}
    assert all(len(case.boxes) == len(case.subjects) for case in layout.cases)


def test_subjects_of_a_layout_differ_in_class(layout):
    for case in layout.cases:
        classes = {layout.subjects[name].class_name for name in case.subjects}
        assert len(classes) == len(case.subjects)


def test_each_subject_of_a_group_stands_in_each_place_equally_often(layout):
    """The order in the prompt does not tell the place."""
    places = Counter(
        (case.subjects, name, box) for case in layout.cases for name, box in zip(case.subjects, case.boxes, strict=True)
    )
    for subjects in {case.subjects for case in layout.cases}:
        counts = [count for (group, *_), count in places.items() if group == subjects]
        boxes = {1: 3, 2: 2, 3: 3}[len(subjects)]
        assert counts == [6 // boxes] * boxes * len(subjects)


def test_prompt_of_a_layout_lists_its_subjects(layout):
    prompts = {case.name: case.prompt for case in layout.cases}
    assert prompts["backpack/00"] == "a backpack in a room"
    assert prompts["backpack+colorful_sneaker/01"] == "a backpack and a sneaker in the snow"
    assert prompts["backpack+colorful_sneaker+pink_sunglasses/00"] == "a backpack, a sneaker, and a glasses in a room"
