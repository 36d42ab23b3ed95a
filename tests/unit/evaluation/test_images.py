import json
from pathlib import Path

import pytest

from evaluation.benchmarks.benchmark import Benchmark, Case, PromptGroup, Subject
from evaluation.errors import ImagesError
from evaluation.images import ImageLayout, find_images, missing_files

CAT = Subject("cat2", "cat", ("cat2/00.jpg",), "cat2/00.jpg")
CASES = (
    Case("cat2/00", ("cat2",), "a cat in the snow", PromptGroup.PLACE),
    Case("cat2/01", ("cat2",), "a red cat", PromptGroup.ATTRIBUTE),
)
BENCHMARK = Benchmark("cats", "Cats", "tests", "MIT", {"cat2": CAT}, CASES, images_per_case=2)


def touch(folder: Path, *names: str) -> Path:
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"")
    return folder


def found(folder: Path, layout: ImageLayout = ImageLayout.CASES) -> dict[str, str]:
    return {
        file.name: file.path.relative_to(folder).as_posix()
        for file in find_images(folder, BENCHMARK, layout)
        if file.path is not None
    }


def test_images_by_case_and_number(tmp_path: Path) -> None:
    touch(tmp_path, "cat2/00/0.png", "cat2/00/01.webp", "cat2/01/1.JPG", "cat2/01/notes.txt")
    assert found(tmp_path) == {
        "cat2/00/0": "cat2/00/0.png",
        "cat2/00/1": "cat2/00/01.webp",
        "cat2/01/1": "cat2/01/1.JPG",
    }
    assert [file.name for file in missing_files(find_images(tmp_path, BENCHMARK))] == ["cat2/01/0"]


def test_images_by_subject_and_prompt(tmp_path: Path) -> None:
    touch(tmp_path, "cat2/a cat in the snow/b.png", "cat2/a cat in the snow/a.png", "cat2/A_red_cat./seed7.png")
    assert found(tmp_path, ImageLayout.PROMPTS) == {
        "cat2/00/0": "cat2/a cat in the snow/a.png",
        "cat2/00/1": "cat2/a cat in the snow/b.png",
        "cat2/01/0": "cat2/A_red_cat./seed7.png",
    }


def test_images_of_uno_with_their_settings(tmp_path: Path) -> None:
    for name, prompt in (("0_0", "a cat in the snow"), ("1_0", "a red cat")):
        touch(tmp_path, f"{name}.png")
        settings = {"prompt": prompt, "image_paths": ["./dreambooth/dataset/cat2/02.jpg"]}
        (tmp_path / f"{name}.json").write_text(json.dumps(settings))
    assert found(tmp_path, ImageLayout.UNO) == {"cat2/00/0": "0_0.png", "cat2/01/0": "1_0.png"}
    (tmp_path / "1_0.json").unlink()
    with pytest.raises(ImagesError, match=r"1_0\.json: no prompt and image_paths of 1_0\.png"):
        find_images(tmp_path, BENCHMARK, ImageLayout.UNO)


def test_images_of_kosmos_g(tmp_path: Path) -> None:
    touch(tmp_path, "cat2+00+57+a red cat.png")
    assert found(tmp_path, ImageLayout.KOSMOS_G) == {"cat2/01/0": "cat2+00+57+a red cat.png"}


def test_images_of_no_case_are_refused(tmp_path: Path) -> None:
    touch(tmp_path, "cat2/00/0.png", "cat/00/0.png", "cat2/00/first.png")
    with pytest.raises(ImagesError, match=r"2 images belong to no case of cats: cat/00/0.png, cat2/00/first.png"):
        find_images(tmp_path, BENCHMARK)
    touch(tmp_path / "prompts", "cat2/a blue cat/0.png")
    with pytest.raises(ImagesError, match="a blue cat"):
        find_images(tmp_path / "prompts", BENCHMARK, ImageLayout.PROMPTS)


def test_more_images_than_the_benchmark_asks_are_refused(tmp_path: Path) -> None:
    touch(tmp_path, *(f"cat2/00/{number}.png" for number in range(3)))
    with pytest.raises(ImagesError, match=r"1 images more than the 2 a case of cats: cat2/00/2"):
        find_images(tmp_path, BENCHMARK)
    touch(tmp_path / "prompts", *(f"cat2/a red cat/{name}.png" for name in "abc"))
    with pytest.raises(ImagesError, match="cat2/01/2"):
        find_images(tmp_path / "prompts", BENCHMARK, ImageLayout.PROMPTS)


def test_two_files_of_one_image_are_refused(tmp_path: Path) -> None:
    touch(tmp_path, "cat2/00/0.png", "cat2/00/0.jpg")
    with pytest.raises(ImagesError, match="both image 0 of cat2/00"):
        find_images(tmp_path, BENCHMARK)


def test_a_missing_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ImagesError, match="no such folder"):
        find_images(tmp_path / "absent", BENCHMARK)
