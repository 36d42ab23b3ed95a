"""Real images of a benchmark in a folder."""

import os
from dataclasses import replace
from pathlib import Path

import pytest

from evaluation.benchmarks.catalog import load_benchmark
from evaluation.benchmarks.references import reference_files
from evaluation.errors import ImagesError


@pytest.fixture
def two_subjects():
    whole = load_benchmark("dreambench")
    return replace(whole, subjects={name: whole.subjects[name] for name in ("cat", "vase")})


def write_images(benchmark, folder):
    for subject in benchmark.subjects.values():
        for image in subject.images:
            (folder / image).parent.mkdir(exist_ok=True)
            (folder / image).touch()


def test_files_of_each_subject_are_listed_in_order(two_subjects, tmp_path):
    write_images(two_subjects, tmp_path)
    files = reference_files(two_subjects, tmp_path)
    assert [file.relative_to(tmp_path).as_posix() for file in files["cat"]] == [f"cat/0{i}.jpg" for i in range(5)]
    assert {name: len(own) for name, own in files.items()} == {"cat": 5, "vase": 6}


def test_missing_files_are_named(two_subjects, tmp_path):
    write_images(two_subjects, tmp_path)
    (tmp_path / "cat" / "03.jpg").unlink()
    with pytest.raises(ImagesError, match=r"lacks 1 of the 11 images of dreambench: cat/03\.jpg;"):
        reference_files(two_subjects, tmp_path)


def test_the_first_ten_of_many_missing_files_are_named(two_subjects, tmp_path):
    with pytest.raises(ImagesError, match=r"lacks 11 of the 11 images .* vase/04\.jpg and 1 more; give the folder"):
        reference_files(two_subjects, tmp_path)


def test_a_missing_folder_is_named(two_subjects, tmp_path):
    with pytest.raises(ImagesError, match="nowhere: no such folder"):
        reference_files(two_subjects, tmp_path / "nowhere")


@pytest.mark.skipif("SD_DREAMBENCH_DIR" not in os.environ, reason="SD_DREAMBENCH_DIR names no folder of photographs")
def test_the_published_photographs_are_the_listed_ones():
    folder = Path(os.environ["SD_DREAMBENCH_DIR"])
    files = reference_files(load_benchmark("dreambench"), folder)
    listed = {file for own in files.values() for file in own}
    assert listed == set(folder.glob("*/*.jpg"))
