"""What holds of every benchmark, and the search by name."""

import pytest

from evaluation.benchmarks.benchmark import Benchmark
from evaluation.benchmarks.catalog import benchmark_names, load_benchmark
from evaluation.errors import InvalidBenchmark


@pytest.fixture(params=benchmark_names(), scope="module")
def benchmark(request) -> Benchmark:
    return load_benchmark(request.param)


def test_names_are_unique(benchmark):
    assert len({case.name for case in benchmark.cases}) == len(benchmark.cases) > 0
    assert all(name == subject.name for name, subject in benchmark.subjects.items())


def test_names_are_relative_paths_of_every_file_system(benchmark):
    names = [case.name for case in benchmark.cases]
    names += [image for subject in benchmark.subjects.values() for image in subject.images]
    assert not [name for name in names if name.startswith("/") or set('\\:*?"<>| ') & set(name) or ".." in name]


def test_cases_name_subjects_of_the_benchmark_and_leave_none_out(benchmark):
    named = {name for case in benchmark.cases for name in case.subjects}
    assert named == benchmark.subjects.keys()
    assert all(case.subjects for case in benchmark.cases)


def test_no_case_occurs_twice(benchmark):
    cases = [(case.subjects, case.prompt) for case in benchmark.cases]
    assert len(set(cases)) == len(cases)


def test_input_image_is_one_of_the_subjects_images(benchmark):
    for subject in benchmark.subjects.values():
        assert subject.input_image in subject.images
        assert len(set(subject.images)) == len(subject.images)


def test_prompts_name_the_class_of_each_subject(benchmark):
    for case in benchmark.cases:
        assert "{" not in case.prompt
        assert case.prompt.strip() == case.prompt != ""
        assert [name for name in case.subjects if benchmark.subjects[name].class_name not in case.prompt] == []


def test_boxes_are_absent_or_lie_in_the_image_one_per_subject(benchmark):
    for case in benchmark.cases:
        assert len(case.boxes) in (0, len(case.subjects))
        for left, top, right, bottom in case.boxes:
            assert 0 <= left < right <= 1
            assert 0 <= top < bottom <= 1


def test_origin_and_licence_are_named(benchmark):
    assert benchmark.title
    assert benchmark.source
    assert benchmark.licence
    assert benchmark.images_per_case >= 1
    assert all(benchmark.notes)


def test_an_unknown_name_gets_the_nearest_one():
    with pytest.raises(InvalidBenchmark, match="did you mean dreambench"):
        load_benchmark("dreambnch")
    with pytest.raises(InvalidBenchmark, match="there are dreambench, dreambench-4"):
        load_benchmark("zzz")
