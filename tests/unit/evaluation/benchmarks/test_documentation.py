"""The page that lists the benchmarks, against the benchmarks."""

import re
import tomllib
from pathlib import Path

from evaluation.benchmarks.benchmark_file import read_benchmark
from evaluation.benchmarks.catalog import benchmark_names, copied_benchmark_names, load_benchmark

PAGE = (Path(__file__).parents[4] / "docs" / "reference" / "benchmarks.md").read_text()


def test_the_page_lists_each_benchmark_with_its_counts():
    number = r"([\d,]+)"
    rows = re.findall(rf"^\| `([\w-]+)` \| {number} \| {number} \| {number} \| {number} \|", PAGE, re.MULTILINE)
    listed = {name: [int(count.replace(",", "")) for count in counts] for name, *counts in rows}
    loaded = {name: load_benchmark(name) for name in benchmark_names()}
    assert listed == {
        name: [len(one.subjects), len(one.cases), one.images_per_case, one.image_count] for name, one in loaded.items()
    }
    assert set(re.findall(r"^\| `([\w-]+):FOLDER`", PAGE, re.MULTILINE)) == set(copied_benchmark_names())


def test_the_example_of_own_subjects_is_read(tmp_path):
    example = re.search(r"```toml\n(.*?)```", PAGE, re.DOTALL)[1]
    for subject in tomllib.loads(example)["subjects"]:
        for image in subject["images"]:
            (tmp_path / image).parent.mkdir(exist_ok=True)
            (tmp_path / image).touch()
    (tmp_path / "desk.toml").write_text(example)
    assert len(read_benchmark(tmp_path / "desk.toml").cases) == 25 + 25 + 1
