"""Cut-outs of subjects that are a region of their image."""

from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from evaluation.benchmarks.benchmark import Subject
from evaluation.benchmarks.benchmark_file import read_benchmark, write_benchmark
from evaluation.benchmarks.catalog import load_benchmark
from evaluation.benchmarks.entities import cut_entities
from evaluation.benchmarks.references import reference_files
from evaluation.errors import ImagesError

REGION = (0.25, 0.5, 0.75, 1.0)


@pytest.fixture
def images(tmp_path):
    """Two images of 40 x 20 pixels whose value in each pixel is its place."""
    folder = tmp_path / "images"
    (folder / "test").mkdir(parents=True)
    pixels = np.arange(800, dtype=np.uint16).reshape(20, 40)
    for name in ("a", "b"):
        Image.fromarray(np.stack([pixels % 256, pixels // 256, pixels * 0], axis=-1).astype(np.uint8)).save(
            folder / "test" / f"{name}.png"
        )
    return folder


def subject(name, image, region=REGION):
    return Subject(name, "owl", (image,), image, region=region)


@pytest.fixture
def owls():
    subjects = {"owl-1": subject("owl-1", "test/a.png"), "owl-2": subject("owl-2", "test/b.png")}
    one = load_benchmark("dreambench").cases[0]
    cases = tuple(replace(one, name=f"{name}/00", subjects=(name,)) for name in subjects)
    return replace(load_benchmark("dreambench"), subjects=subjects, cases=cases)


def test_a_cut_out_holds_the_pixels_of_the_region(owls, images, tmp_path):
    cut = cut_entities(owls, images, tmp_path / "entities")
    for name, (file,) in reference_files(cut, tmp_path / "entities").items():
        whole = np.asarray(Image.open(images / owls.subjects[name].input_image))
        assert np.array_equal(np.asarray(Image.open(file)), whole[10:20, 10:30])
    assert all(one.region is None for one in cut.subjects.values())
    assert cut.cases == owls.cases


def test_a_benchmark_of_cut_outs_is_written_and_read(owls, images, tmp_path):
    cut = cut_entities(owls, images, tmp_path / "entities")
    write_benchmark(cut, tmp_path / "owls.json")
    assert read_benchmark(tmp_path / "owls.json") == cut


def test_existing_cut_outs_are_kept_and_a_changed_region_is_cut(owls, images, tmp_path):
    first = cut_entities(owls, images, tmp_path / "entities")
    times = {file: file.stat().st_mtime_ns for file in (tmp_path / "entities").iterdir()}
    assert cut_entities(owls, images, tmp_path / "entities") == first
    assert {file: file.stat().st_mtime_ns for file in (tmp_path / "entities").iterdir()} == times
    moved = replace(owls, subjects={**owls.subjects, "owl-1": subject("owl-1", "test/a.png", (0.0, 0.0, 0.5, 0.5))})
    again = cut_entities(moved, images, tmp_path / "entities")
    assert again.subjects["owl-1"].images != first.subjects["owl-1"].images
    assert again.subjects["owl-2"] == first.subjects["owl-2"]


@pytest.mark.parametrize("low", [0.5, 0.99])
def test_a_region_of_no_whole_pixel_is_one_pixel(owls, images, tmp_path, low):
    tiny = subject("owl-1", "test/a.png", (low, low, low + 0.005, low + 0.005))
    cut = cut_entities(replace(owls, subjects={**owls.subjects, "owl-1": tiny}), images, tmp_path / "entities")
    assert Image.open(tmp_path / "entities" / cut.subjects["owl-1"].input_image).size == (1, 1)


def test_a_subject_without_a_region_keeps_its_images(owls, images, tmp_path):
    mixed = replace(owls, subjects={**owls.subjects, "owl-1": subject("owl-1", "test/a.png", None)})
    cut = cut_entities(mixed, images, tmp_path / "entities")
    assert reference_files(cut, tmp_path / "entities")["owl-1"] == (images / "test" / "a.png",)


def test_an_image_that_cannot_be_decoded_is_named(owls, images, tmp_path):
    (images / "test" / "a.png").write_bytes(b"not an image")
    with pytest.raises(ImagesError, match=r"1 images of dreambench cannot be decoded: test/a\.png \(.*download"):
        cut_entities(owls, images, tmp_path / "entities")
    (images / "test" / "a.png").unlink()
    with pytest.raises(ImagesError, match=r"lacks 1 of the 2 images of dreambench: test/a\.png"):
        cut_entities(owls, images, tmp_path / "entities")
