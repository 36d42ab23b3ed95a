"""The list of Open Images by the command line, from small CSVs of its format."""

from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from evaluation.benchmarks.catalog import load_benchmark
from flows.cli import app
from tests.openimages_files import CLASSES, DOG, HEADER, LEFT, box_line


@pytest.fixture
def classes(tmp_path: Path) -> Path:
    (tmp_path / "classes.csv").write_text(CLASSES)
    for split in ("validation", "test"):
        rows = [box_line(f"{split[0]}{number}", DOG, LEFT, 0) for number in range(3)]
        (tmp_path / f"{split}.csv").write_text("\n".join([HEADER, *rows]) + "\n")
    return tmp_path / "classes.csv"


def choose(classes: Path, *boxes: str, seed: int = 0) -> Result:
    options = [part for one in boxes for part in ("--boxes", one)]
    out = str(classes.parent / "list.json")
    return CliRunner().invoke(
        app, ["evaluate", "openimages", str(classes), *options, "--seed", str(seed), "--out", out]
    )


def test_the_list_is_a_benchmark_and_its_images_can_be_downloaded(classes: Path) -> None:
    folder = classes.parent
    result = choose(classes, f"validation={folder / 'validation.csv'}", f"test={folder / 'test.csv'}")
    assert result.exit_code == 0, result.output
    benchmark = load_benchmark(str(folder / "list.json"))
    assert list(benchmark.subjects) == ["dog-1", "dog-2"]
    chosen = sorted(subject.input_image.removesuffix(".jpg") for subject in benchmark.subjects.values())
    assert (folder / "list.txt").read_text().splitlines() == chosen
    assert {image.split("/")[0] for image in chosen} <= {"validation", "test"}
    assert "2 subjects, 200 images" in result.output


@pytest.mark.parametrize(
    ("boxes", "message"),
    [
        (["test.csv"], "give SPLIT=CSV"),
        (["=test.csv"], "give SPLIT=CSV"),
        (["test=a.csv", "test=b.csv"], "the split test is given twice"),
        (["test=missing.csv"], "missing.csv"),
    ],
)
def test_a_mistake_is_named_in_one_line(classes: Path, boxes: list[str], message: str) -> None:
    result = choose(classes, *boxes)
    assert result.exit_code in (1, 2)
    assert message in " ".join(result.output.replace("│", " ").split())
    assert "Traceback" not in result.output
