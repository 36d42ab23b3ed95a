"""Benchmarks that are read from the user's copy of published lists."""

import json

import pytest

from evaluation.benchmarks.benchmark import PromptGroup
from evaluation.benchmarks.catalog import copied_benchmark_names, load_benchmark
from evaluation.errors import InvalidBenchmark

CONCEPTS = (("pet_cat1", "cat", "cat.txt"), ("scene_gate", "moongate", "gate.txt"))
PROMPTS = {"cat.txt": "photo of a {}.\n\na {} in chef outfit. \n", "gate.txt": "photo of a moongate.\n"}


def concept(name, class_word, prompts):
    return {
        "instance_prompt": f"photo of a <new1> {class_word}",
        "class_prompt": class_word,
        "instance_data_dir": f"./benchmark_dataset/{name}",
        "class_data_dir": f"./regularization/{class_word}",
        "prompt_filename": f"prompts/{prompts}",
    }


@pytest.fixture
def concepts(tmp_path):
    """A copy of CustomConcept101's form."""
    listed = [concept(*one) for one in CONCEPTS]
    (tmp_path / "dataset.json").write_text(json.dumps(listed))
    joint = [[*listed, {"prompt_filename_compose": "prompts/both.txt"}]]
    (tmp_path / "dataset_multiconcept.json").write_text(json.dumps(joint))
    (tmp_path / "prompts").mkdir()
    for file, text in {**PROMPTS, "both.txt": "the {1} behind the {0}."}.items():
        (tmp_path / "prompts" / file).write_text(text)
    for name, *_ in CONCEPTS:
        (tmp_path / "benchmark_dataset" / name).mkdir(parents=True)
        for image in ("2.jpeg", "1.JPG", "._1.jpg", "notes.txt"):
            (tmp_path / "benchmark_dataset" / name / image).touch()
    return tmp_path


@pytest.fixture
def plus(tmp_path):
    """A copy of DreamBench++'s form."""
    for kind, subject in (("animal", "Red panda"), ("style", "oil painting")):
        for folder in ("images", "captions"):
            (tmp_path / folder / kind).mkdir(parents=True)
        (tmp_path / "images" / kind / "00.jpg").touch()
        prompts = "\n".join(f"{subject}, prompt {i}" for i in range(9))
        (tmp_path / "captions" / kind / "00.txt").write_text(f"{subject}\n{prompts}\n")
    return tmp_path


def test_concepts_get_their_prompts_with_the_class_word(concepts):
    benchmark = load_benchmark(f"concept101:{concepts}")
    assert {case.name: case.prompt for case in benchmark.cases} == {
        "pet_cat1/00": "photo of a cat.",
        "pet_cat1/01": "a cat in chef outfit.",
        "scene_gate/00": "photo of a moongate.",
    }
    cat = benchmark.subjects["pet_cat1"]
    assert cat.images == ("benchmark_dataset/pet_cat1/1.JPG", "benchmark_dataset/pet_cat1/2.jpeg")
    assert cat.input_image == cat.images[0]
    assert benchmark.images_folder == concepts


def test_pairs_of_concepts_get_their_joint_prompts(concepts):
    (case,) = load_benchmark(f"concept101-pairs:{concepts}").cases
    assert (case.name, case.subjects) == ("pet_cat1+scene_gate/00", ("pet_cat1", "scene_gate"))
    assert case.prompt == "the moongate behind the cat."


def test_dreambench_plus_has_one_image_and_nine_prompts_of_three_kinds(plus):
    benchmark = load_benchmark(f"dreambench-plus:{plus}")
    assert list(benchmark.subjects) == ["live_subject_animal_00_red_panda", "style_00_oil_painting"]
    panda = benchmark.subjects["live_subject_animal_00_red_panda"]
    assert (panda.class_name, panda.live, panda.images) == ("Red panda", True, ("images/animal/00.jpg",))
    assert len(benchmark.cases) == 18
    styles = [case.name[-2:] for case in benchmark.cases if case.group is PromptGroup.STYLE]
    assert styles == ["04", "05", "06"] * 2


@pytest.mark.parametrize("name", copied_benchmark_names())
def test_a_name_without_a_copy_says_where_to_get_it(name, tmp_path):
    with pytest.raises(InvalidBenchmark, match=rf"may not ship.*https://github\.com/.* as {name}:FOLDER"):
        load_benchmark(name)
    with pytest.raises(InvalidBenchmark, match=r"nowhere/.*https://github\.com/"):
        load_benchmark(f"{name}:{tmp_path / 'nowhere'}")


def remove_images(concepts):
    for file in (concepts / "benchmark_dataset" / "pet_cat1").iterdir():
        file.unlink()


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (remove_images, r"benchmark_dataset/pet_cat1 holds no images: clone"),
        (lambda copy: (copy / "prompts/cat.txt").write_text("\n"), r"prompts/cat\.txt is empty"),
        (lambda copy: (copy / "prompts/cat.txt").write_bytes(b"\xff"), r"prompts/cat\.txt: not text"),
        (lambda copy: (copy / "dataset.json").write_text("["), r"dataset\.json: not JSON"),
        (
            lambda copy: (copy / "dataset.json").write_text('[{"class_prompt": 7}]'),
            r"dataset\.json\[0\]\['class_prompt'\]: .*valid string \(got 7\)",
        ),
    ],
    ids=["images", "empty", "bytes", "syntax", "key"],
)
def test_a_spoilt_copy_of_concept101_is_named(concepts, spoil, message):
    spoil(concepts)
    with pytest.raises(InvalidBenchmark, match=message):
        load_benchmark(f"concept101:{concepts}")


def test_a_spoilt_copy_of_dreambench_plus_is_named(plus):
    (plus / "captions/style/00.txt").write_text("oil painting\none\n")
    with pytest.raises(InvalidBenchmark, match=r"style/00\.txt: 1 prompts after the subject, not 9"):
        load_benchmark(f"dreambench-plus:{plus}")
    (plus / "images/animal/00.jpg").unlink()
    with pytest.raises(InvalidBenchmark, match=r"images/animal/00\.jpg is missing"):
        load_benchmark(f"dreambench-plus:{plus}")
