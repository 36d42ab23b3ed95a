"""The history of the benchmarks' figures, and the comparison of two commits, on a small repository of its own."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.benchmarks.history import HISTORY, PAGE, ROOT, Better, Kind, Recorder, draw, read_history
from tests.benchmarks.pairs import Spread

FILES = ("__init__.py", "benchmarks/__init__.py", "benchmarks/conftest.py", "benchmarks/compare.py")
FILES += ("benchmarks/history.py", "benchmarks/pairs.py", "benchmarks/rehearsal_report.py")
BENCHMARK = """
import pytest
from pathlib import Path
from tests.benchmarks.history import Better, Kind

pytestmark = pytest.mark.bench

def test_time(record):
    with Path(COUNTER).open("a") as file:
        file.write("run\\n")
    record("a sample", float(Path("time.txt").read_text()), "ms")
    record("samples", 1 / float(Path("time.txt").read_text()), "1/ms", Better.MORE)

def test_count(record):
    with Path(COUNTER).open("a") as file:
        file.write("count\\n")
    record("operations", float(Path("count.txt").read_text()), kind=Kind.COUNTED)
    record("difference", 0.0, kind=Kind.TOLERANCE)
"""


def test_a_line_tells_figure_and_circumstances(tmp_path: Path) -> None:
    record = Recorder("test_x.py::test_speed", tmp_path / "history.jsonl", load=1.5)
    record("a sample", Spread((3.0, 1.0, 2.0)), "ms")
    record("operations", 7.0, better=Better.MORE, kind=Kind.COUNTED)
    first, second = map(json.loads, (tmp_path / "history.jsonl").read_text().splitlines())
    assert list(first) == sorted(first)
    assert (first["median"], first["low"], first["high"], first["pairs"]) == (2.0, 1.0, 3.0, 3)
    assert (first["load"], first["unit"], second["better"], second["kind"]) == (1.5, "ms", "more", "counted")
    assert {"commit", "clean", "hardware", "versions"} <= first.keys()
    assert {"python", "torch", "numpy"} <= first["versions"].keys()


def test_a_recorder_without_a_history_prints(capsys: pytest.CaptureFixture[str]) -> None:
    Recorder("test_x.py::test_speed", None)("a sample", Spread((1.0, 2.0, 3.0)), "ms")
    assert capsys.readouterr().out.strip() == "a sample: 2 ms (1 to 3, 3 pairs)"


def test_the_page_shows_the_last_run_and_the_course(tmp_path: Path) -> None:
    record = Recorder("test_x.py::test_speed", tmp_path / "history.jsonl", load=0.5)
    for time in (4.0, 1.0, 2.5):
        record("a sample", time, "ms")
    page = draw(read_history(tmp_path / "history.jsonl"))
    (row,) = (line for line in page.splitlines() if "a sample" in line)
    assert "| 2.5 | ms | less |" in row
    assert "| █▁▅ |" in row
    assert "## `test_x.py`" in page


def test_the_page_of_the_documentation_is_that_of_the_history() -> None:
    assert (ROOT / PAGE).read_text() == draw(read_history(ROOT / HISTORY)), "python -m tests.benchmarks.history"


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    """A repository whose only commit takes 10 ms and 100 operations."""
    folder = tmp_path / "repository"
    for name in FILES:
        (folder / "tests" / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / "tests" / name, folder / "tests" / name)
    benchmark = BENCHMARK.replace("COUNTER", repr(str(tmp_path / "runs.txt")))
    (folder / "tests/benchmarks/test_small.py").write_text(benchmark)
    (folder / "time.txt").write_text("10")
    (folder / "count.txt").write_text("100")
    git = ["git", "-C", str(folder), "-c", "user.name=a", "-c", "user.email=a@example.com"]
    for arguments in (["init", "--quiet"], ["add", "."], ["commit", "--quiet", "-m", "Base"]):
        subprocess.run([*git, *arguments], check=True)
    return folder


def compare(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "tests.benchmarks.compare", "HEAD", *arguments]
    env = os.environ | {"PYTHONPATH": str(folder)}
    return subprocess.run(command, cwd=folder, env=env, capture_output=True, text=True)


def test_a_slower_working_tree_fails_with_the_name_of_the_benchmark(repository: Path) -> None:
    (repository / "time.txt").write_text("11")
    compared = compare(repository)
    assert compared.returncode == 1, compared.stderr
    assert "test_small.py::test_time: a sample: 0.909 (0.909 to 0.909), 5 pairs  below 0.95" in compared.stdout
    assert "test_small.py::test_time: samples: 0.909 (0.909 to 0.909), 5 pairs  below 0.95" in compared.stdout
    assert "test_small.py::test_count: operations: 1.000 (1.000 to 1.000), 1 pairs" in compared.stdout
    assert "test_small.py::test_count: difference:" not in compared.stdout
    runs = (repository.parent / "runs.txt").read_text().split()
    assert (runs.count("run"), runs.count("count")) == (10, 2)
    assert len(subprocess.check_output(["git", "-C", repository, "worktree", "list"]).splitlines()) == 1


def test_counted_figures_are_compared_once_and_a_subset_is_chosen(repository: Path) -> None:
    (repository / "count.txt").write_text("99")
    (repository / "newer.py").write_text("")
    (repository / "tests/benchmarks/test_newer.py").write_text("import newer  # which the commit lacks")
    compared = compare(repository, "-k", "count")
    assert compared.returncode == 0, compared.stderr
    assert (repository.parent / "runs.txt").read_text().split() == ["count", "count"]
    assert "operations: 1.010" in compared.stdout
    nothing = compare(repository, "-k", "nothing")
    assert nothing.returncode == 2
