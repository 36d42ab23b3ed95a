"""Benchmarks as files: own subjects in TOML, complete lists in JSON, and what is refused."""

import json

import pytest

from evaluation.benchmarks.benchmark import PromptGroup
from evaluation.benchmarks.benchmark_file import read_benchmark, write_benchmark
from evaluation.benchmarks.catalog import benchmark_names, load_benchmark
from evaluation.errors import ImagesError, InvalidBenchmark

OWN = """
title = "Things on my desk"
prompts = ["a {} in the sink", "a photo of a {}"]

[[subjects]]
name = "mug"
class_name = "mug"
images = ["mug/front.jpg", "mug/side.jpg"]
input_image = "mug/side.jpg"

[[subjects]]
name = "rex"
class_name = "dog"
images = ["rex.png"]
live = true

[[cases]]
subjects = ["rex", "mug"]
prompt = "a dog beside a mug"
group = "place"
boxes = [[0.0, 0.1, 0.5, 0.9], [0.5, 0.1, 1.0, 0.9]]
"""


@pytest.fixture
def write(tmp_path):
    def write(text, name="desk.toml"):
        for image in ("mug/front.jpg", "mug/side.jpg", "rex.png"):
            (tmp_path / image).parent.mkdir(exist_ok=True)
            (tmp_path / image).touch()
        (tmp_path / name).write_text(text)
        return tmp_path / name

    return write


def test_own_subjects_get_prompts_alone_and_cases_together(write, tmp_path):
    own = read_benchmark(write(OWN))
    assert (own.name, own.title, own.images_per_case) == ("desk", "Things on my desk", 4)
    assert [(case.name, case.prompt) for case in own.cases] == [
        ("mug/00", "a mug in the sink"),
        ("mug/01", "a photo of a mug"),
        ("rex/00", "a dog in the sink"),
        ("rex/01", "a photo of a dog"),
        ("rex+mug/case-00", "a dog beside a mug"),
    ]
    assert own.cases[0].group is PromptGroup.PLAIN
    assert own.cases[-1].boxes == ((0.0, 0.1, 0.5, 0.9), (0.5, 0.1, 1.0, 0.9))
    assert own.subjects["mug"].input_image == "mug/side.jpg"
    assert own.subjects["rex"].input_image == "rex.png"
    assert own.images_folder == tmp_path


def test_own_subjects_get_dreambenchs_prompts(write):
    own = read_benchmark(write(OWN.replace('["a {} in the sink", "a photo of a {}"]', '"dreambench"')))
    prompts = {case.name: case.prompt for case in own.cases}
    assert len(prompts) == 25 + 25 + 1
    assert prompts["mug/10"] == "a mug with a wheat field in the background"
    assert prompts["rex/10"] == "a dog wearing a red hat"


def test_images_are_relative_to_the_named_folder(write, tmp_path):
    (tmp_path / "lists").mkdir()
    path = write('images_folder = ".."\n' + OWN, "lists/desk.toml")
    assert read_benchmark(path).images_folder == tmp_path / "lists/.."


def test_the_catalogue_takes_the_path_of_a_file(write):
    path = write(OWN)
    assert load_benchmark(str(path)) == load_benchmark(path) == read_benchmark(path)


@pytest.mark.parametrize("name", benchmark_names())
def test_a_written_benchmark_is_read_back(name, tmp_path):
    benchmark = load_benchmark(name)
    write_benchmark(benchmark, tmp_path / "list.json")
    assert read_benchmark(tmp_path / "list.json") == benchmark


def test_an_own_benchmark_is_written_with_its_folder(write, tmp_path):
    own = read_benchmark(write(OWN))
    (tmp_path / "elsewhere").mkdir()
    write_benchmark(own, tmp_path / "elsewhere" / "list.json")
    assert read_benchmark(tmp_path / "elsewhere" / "list.json") == own


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("live = true", "alive = true", r"desk\.toml: subjects\[1\]\.alive: unknown key; there are name, class_name"),
        ("title =", "titles =", r"titles: unknown key; there are name, title"),
        ('class_name = "dog"\n', "", r"subjects\[1\]\.class_name is required"),
        ("live = true", "live = 7", r"subjects\[1\]\.live: .*valid boolean.*'7'"),
        ('name = "rex"', 'name = "mug"', r"subjects: two are named 'mug'"),
        ('name = "rex"', 'name = "../rex"', r"subject '\.\./rex': .*cannot be a folder's name"),
        ('class_name = "dog"', 'class_name = " "', r"subject 'rex': class_name is blank"),
        ('images = ["rex.png"]', "images = []", r"subjects\[1\]\.images: .*at least 1 item"),
        ('["rex.png"]', '["rex.png", "rex.png"]', r"subject 'rex': the image 'rex\.png' occurs twice"),
        ('input_image = "mug/side.jpg"', 'input_image = "x.jpg"', r"'mug': input_image 'x\.jpg' is none of its images"),
        ('["rex", "mug"]', '["rexx", "mug"]', r"'rexx' is no subject of the file; did you mean rex\?"),
        ('["rex", "mug"]', '["rex", "rex"]', r"a subject occurs twice in rex, rex"),
        ('"a dog beside a mug"', '""', r"cases\[0\]\.prompt: .*at least 1 character"),
        ('"a dog beside a mug"', '"  "', r"case 'rex\+mug/case-00': prompt is blank"),
        ('group = "place"', 'group = "places"', r"cases\[0\]\.group: .*'place', 'attribute'.*'places'"),
        ("0.5, 0.9]", "1.5, 0.9]", r"cases\[0\]\.boxes\[0\]\[2\]: .*less than or equal to 1 \(got '1\.5'\)"),
        (
            "[0.5, 0.1, 1.0, 0.9]",
            "[0.5, 0.1, 0.4, 0.9]",
            r"box \[0\.5, 0\.1, 0\.4, 0\.9\] does not lie in the image",
        ),
        (", [0.5, 0.1, 1.0, 0.9]", "", r"has 1 boxes for 2 subjects; give one for each, or none"),
        ("a photo of a {}", "a photo", r"prompts\[1\]: 'a photo' must hold one {}"),
        ("live = true", "region = [0.5, 0.1, 0.4, 0.9]", r"subject 'rex': region: the box \[0\.5, 0\.1, 0\.4, 0\.9\]"),
        ('name = "mug"', 'name = "mug"\nregion = [0, 0, 1, 1]', r"subject 'mug': a region needs a single image, not 2"),
        ("[[cases]]", '[[cases]]\nname = "mug/00"', r"case 'mug/00' occurs 2 times"),
        ("[[cases]]", "images_per_case = 0\n[[cases]]", r"subjects\[1\]\.images_per_case: unknown key"),
        ('title = "', 'images_per_case = 0\ntitle = "', r"images_per_case: .*greater than or equal to 1 \(got '0'\)"),
        ("[[subjects]]", "[[subjects", r"desk\.toml: not TOML: .*line 5"),
    ],
)
def test_a_mistake_is_named_with_file_key_and_value(write, old, new, message):
    assert old in OWN
    with pytest.raises(InvalidBenchmark, match=message) as error:
        read_benchmark(write(OWN.replace(old, new, 1)))
    assert "desk.toml" in str(error.value)


def test_a_file_without_prompts_and_cases_is_refused(write):
    head = OWN.split("[[cases]]", maxsplit=1)[0].replace("prompts = ", "notes = ")
    with pytest.raises(InvalidBenchmark, match=r"desk\.toml: has no case: give `prompts`"):
        read_benchmark(write(head))


def test_a_missing_image_is_named(write, tmp_path):
    path = write(OWN)
    (tmp_path / "rex.png").unlink()
    with pytest.raises(ImagesError, match=r"lacks 1 of the 3 images of desk: rex\.png"):
        read_benchmark(path)


def test_a_missing_file_and_broken_json_are_named(tmp_path):
    with pytest.raises(InvalidBenchmark, match=r"none\.toml cannot be read"):
        read_benchmark(tmp_path / "none.toml")
    (tmp_path / "list.json").write_text(json.dumps(["mug"]))
    with pytest.raises(InvalidBenchmark, match=r"list\.json: the file: .*\(got \"\['mug'\]\"\)"):
        read_benchmark(tmp_path / "list.json")
    (tmp_path / "list.json").write_text("{")
    with pytest.raises(InvalidBenchmark, match=r"list\.json: not JSON"):
        read_benchmark(tmp_path / "list.json")
