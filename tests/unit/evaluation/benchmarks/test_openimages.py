"""The rule that makes a list from Open Images' CSVs, on small files of their format."""

import hashlib
import random
import tracemalloc

import pytest

from evaluation.benchmarks.openimages import OpenImagesRule, build_openimages_benchmark
from evaluation.errors import InvalidBenchmark

HEADER = "ImageID,Source,LabelName,Confidence,XMin,XMax,YMin,YMax,IsOccluded,IsTruncated,IsGroupOf,IsDepiction,IsInside"
CLASSES = "/m/0342h,Guitar\n/m/09d5_,Owl\n/m/0dzf4,Human arm\n/m/01g317,Person\n"
GUITAR, OWL, ARM, PERSON = "/m/0342h", "/m/09d5_", "/m/0dzf4", "/m/01g317"
FAIR = (0.1, 0.1, 0.6, 0.5)


def row(image, label, box=FAIR, group=0):
    left, top, right, bottom = box
    return f"{image},xclick,{label},1,{left},{right},{top},{bottom},0,0,{group},0,0"


@pytest.fixture
def build(tmp_path):
    def build(rows, names=CLASSES, header=HEADER, **rule):
        (tmp_path / "boxes.csv").write_text("\n".join([header, *rows]) + "\n")
        (tmp_path / "classes.csv").write_text(names)
        boxes = {"validation": tmp_path / "boxes.csv"}
        return build_openimages_benchmark(boxes, tmp_path / "classes.csv", OpenImagesRule(**rule))

    return build


def images(benchmark):
    return {subject.input_image for subject in benchmark.subjects.values()}


def test_each_class_gets_two_entities_in_different_images(build):
    rows = [row(f"{i:04x}", label) for i in range(6) for label in (GUITAR, OWL)]
    benchmark = build(rows)
    assert list(benchmark.subjects) == ["guitar-1", "guitar-2", "owl-1", "owl-2"]
    assert len(images(benchmark)) >= 2
    assert len({benchmark.subjects[name].input_image for name in ("owl-1", "owl-2")}) == 2
    assert len(benchmark.cases) == 4 * 25
    assert benchmark.image_count == 4 * 25 * 4
    assert "2 classes x 2 entities" in benchmark.title


@pytest.mark.parametrize(
    ("label", "box", "group"),
    [
        (GUITAR, FAIR, 1),
        (ARM, FAIR, 0),
        (GUITAR, (0.1, 0.1, 0.3, 0.3), 0),
        (GUITAR, (0.0, 0.0, 0.9, 0.9), 0),
        (GUITAR, (0.0, 0.0, 0.2, 0.9), 0),
        (GUITAR, (0.0, 0.0, 0.9, 0.2), 0),
        (GUITAR, (0.3, 0.1, 0.3, 0.9), 0),
    ],
    ids=["group", "body part", "small", "large", "narrow", "wide", "empty"],
)
def test_a_box_that_breaks_a_filter_is_left_out(build, label, box, group):
    fine = [row("a0", OWL), row("a1", OWL)]
    assert set(build([*fine, row("b0", label, box, group), row("b1", label, box, group)]).subjects) == {
        "owl-1",
        "owl-2",
    }
    assert set(build([*fine, row("b0", GUITAR), row("b1", GUITAR)]).subjects) > {"guitar-1", "guitar-2"}


def test_filters_include_their_bounds(build):
    rows = [row(image, GUITAR, (0.0, 0.0, 0.25, 0.5)) for image in "ab"]
    assert len(build(rows, min_area=0.125, min_ratio=0.5).subjects) == 2
    assert len(build(rows, max_area=0.125, max_ratio=0.5).subjects) == 2


def test_the_largest_box_of_an_image_is_its_entity(build):
    small, large = (0.0, 0.0, 0.4, 0.4), (0.2, 0.2, 0.9, 0.8)
    for boxes in ((small, large), (large, small)):
        benchmark = build([*(row("a0", OWL, box) for box in boxes), row("a1", OWL)])
        regions = {subject.input_image: subject.region for subject in benchmark.subjects.values()}
        assert regions == {"validation/a0.jpg": large, "validation/a1.jpg": FAIR}


def test_the_choice_depends_on_the_seed_and_not_on_the_order_of_rows(build):
    rows = [row(f"{i:04x}", OWL) for i in range(40)]
    chosen = images(build(rows))
    random.Random(1).shuffle(rows)
    assert images(build(rows)) == chosen
    assert images(build(rows, seed=1)) != chosen


def test_the_largest_hashes_are_chosen(build):
    names = [f"validation/{i:04x}" for i in range(40)]
    names.sort(key=lambda name: hashlib.sha256(f"7:{name}".encode()).digest())
    benchmark = build([row(f"{i:04x}", OWL) for i in range(40)], seed=7)
    assert images(benchmark) == {f"{name}.jpg" for name in names[-2:]}


def test_two_splits_are_one_pool(tmp_path):
    (tmp_path / "classes.csv").write_text(CLASSES)
    boxes = {"validation": tmp_path / "validation.csv", "test": tmp_path / "test.csv"}
    for split, path in boxes.items():
        path.write_text(f"{HEADER}\n{row(split, OWL)}\n")
    benchmark = build_openimages_benchmark(boxes, tmp_path / "classes.csv")
    assert images(benchmark) == {"validation/validation.jpg", "test/test.jpg"}
    assert "validation and test" in benchmark.source


def test_surplus_classes_are_left_out(build):
    rows = [row(image, label) for image in "ab" for label in (GUITAR, OWL, PERSON)]
    assert len(build(rows).subjects) == 6
    assert len(build(rows, classes=1).subjects) == 2


def test_animals_and_people_get_the_prompts_of_live_subjects(build):
    benchmark = build([row(image, label) for image in "ab" for label in (GUITAR, OWL, PERSON)])
    prompts = {case.name: case.prompt for case in benchmark.cases}
    assert prompts["guitar-1/10"] == "a guitar with a wheat field in the background"
    assert prompts["owl-1/10"] == "an owl wearing a red hat"
    assert prompts["person-2/20"] == "a red person"


def test_class_names_may_have_a_header(build):
    rows = [row("a", OWL), row("b", OWL)]
    assert build(rows, names="LabelName,DisplayName\n" + CLASSES).subjects.keys() == {"owl-1", "owl-2"}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"header": HEADER.replace("IsGroupOf", "Group")}, r"boxes\.csv: has no column IsGroupOf"),
        ({"rows": [row("a", "/m/0zzz")]}, r"boxes\.csv, row 2: LabelName '/m/0zzz'"),
        ({"rows": [row("a", OWL), row("b", OWL, (0.1, "x", 0.5, 0.5))]}, r"row 3: .*could not convert.*'x'"),
        ({"rows": ["a,xclick"]}, r"row 2: has only 2 values"),
        ({"rows": [row("a", OWL)]}, r"no class has 2 entities"),
        ({"names": "/m/0342h,Guitar\nOwl\n"}, r"classes\.csv, row 2"),
        ({"names": CLASSES.replace("Guitar", "Owl")}, r"classes\.csv: two classes have the same name"),
    ],
    ids=["column", "class", "number", "values", "too few", "classes", "names"],
)
def test_an_unusable_csv_is_named_with_its_row(build, change, message):
    rows = [row(image, label) for image in "ab" for label in (GUITAR, OWL)]
    with pytest.raises(InvalidBenchmark, match=message):
        build(**{"rows": rows, **change})


def test_a_missing_csv_is_named(tmp_path):
    with pytest.raises(InvalidBenchmark, match=r"classes\.csv cannot be read .* download it from https"):
        build_openimages_benchmark({"test": tmp_path / "b.csv"}, tmp_path / "classes.csv")


def test_memory_does_not_grow_with_the_number_of_rows(build, tmp_path):
    peaks = []
    for count in (2_000, 20_000):
        build([row(f"{i:08x}", OWL) for i in range(count)])
        tracemalloc.start()
        build_openimages_benchmark({"validation": tmp_path / "boxes.csv"}, tmp_path / "classes.csv")
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] < peaks[0] + 20_000  # 18,000 rows more are 1.3 MB more
