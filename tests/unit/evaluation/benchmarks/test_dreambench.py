"""DreamBench as published."""

import hashlib
import os
import re
from collections import Counter
from pathlib import Path

import pytest

from evaluation.benchmarks.benchmark import PromptGroup
from evaluation.benchmarks.catalog import load_benchmark
from evaluation.benchmarks.dreambench import VARIANTS, dreambench_prompts


@pytest.fixture(scope="module")
def dreambench():
    return load_benchmark("dreambench")


def test_counts_are_those_of_the_publication(dreambench):
    subjects = dreambench.subjects.values()
    assert len(subjects) == 30
    assert len({subject.class_name for subject in subjects}) == 15
    assert sum(subject.live for subject in subjects) == 9
    assert sum(len(subject.images) for subject in subjects) == 158
    assert len(dreambench.cases) == 750
    assert dreambench.image_count == 4500
    assert load_benchmark("dreambench-4").image_count == 3000


def test_objects_and_live_subjects_get_their_own_prompts(dreambench):
    groups = {
        live: Counter(case.group for case in dreambench.cases if dreambench.subjects[case.subjects[0]].live is live)
        for live in (False, True)
    }
    assert groups[False] == {PromptGroup.PLACE: 21 * 20, PromptGroup.ATTRIBUTE: 21 * 5}
    assert groups[True] == {PromptGroup.PLACE: 9 * 10, PromptGroup.OUTFIT: 9 * 10, PromptGroup.ATTRIBUTE: 9 * 5}


def test_prompts_hold_the_class_word_alone(dreambench):
    prompts = {case.name: case.prompt for case in dreambench.cases}
    assert prompts["bear_plushie/01"] == "a stuffed animal in the snow"
    assert prompts["cat2/13"] == "a cat wearing a black top hat and a monocle"
    assert prompts["vase/24"] == "a cube shaped vase"


def digest(lines):
    return hashlib.sha256("\n".join(sorted(lines)).encode()).hexdigest()


def test_prompts_and_input_images_equal_unos_list():
    """The digest is that of sorted `prompt<TAB>image` lines of UNO's datasets/dreambench_singleip.json at d305981."""
    uno = load_benchmark("dreambench-uno")
    lines = [f"{case.prompt}\t{uno.subjects[case.subjects[0]].input_image}" for case in uno.cases]
    assert digest(lines) == "68e34b9eae2e0dbe93bd9081d1d88c0222735495f7f15d1e20f31c75d66bf8de"


PUBLISHED = Path(os.environ.get("SD_DREAMBENCH_DIR", "")) / "prompts_and_classes.txt"


@pytest.mark.skipif(not PUBLISHED.is_file(), reason="SD_DREAMBENCH_DIR names no folder with prompts_and_classes.txt")
def test_classes_and_prompts_equal_the_published_file(dreambench):
    text = PUBLISHED.read_text()
    classes = dict(re.findall(r"^(\w+),([\w ]+)$", text, re.MULTILINE))
    del classes["subject_name"]
    assert {name: subject.class_name for name, subject in dreambench.subjects.items()} == classes
    prompts = [prompt.replace("{0} {1}", "{}") for prompt in re.findall(r"^'(.*)'\.format", text, re.MULTILINE)]
    assert [prompt.text for live in (False, True) for prompt in dreambench_prompts(live)] == prompts


def test_first_input_is_the_alphabetically_first_image(dreambench):
    assert all(subject.input_image == min(subject.images) for subject in dreambench.subjects.values())


def test_variants_differ_in_inputs_and_counts_only(dreambench):
    for name in VARIANTS:
        other = load_benchmark(name)
        assert other.name == name
        assert other.cases == dreambench.cases
        assert [s.images for s in other.subjects.values()] == [s.images for s in dreambench.subjects.values()]
    inputs = {name: [s.input_image for s in load_benchmark(name).subjects.values()] for name in VARIANTS}
    assert inputs["dreambench-uno"] == inputs["dreambench-kosmos-g"] != inputs["dreambench"]
