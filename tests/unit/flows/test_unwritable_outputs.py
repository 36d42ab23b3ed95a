"""An output that cannot be written is an error about the option that names it, not about the dataset."""

from pathlib import Path

import pytest
from typer.testing import CliRunner

from flows.cli import app
from tests.datasets import dataset_of_two


@pytest.mark.parametrize(
    ("verb", "option", "name"), [("report", "--out", "report.html"), ("explore", "--cache", "thumbnails")]
)
def test_the_error_names_the_option(tmp_path: Path, verb: str, option: str, name: str) -> None:
    root = dataset_of_two(tmp_path / "sdd")
    (tmp_path / "file").write_text("where a folder must be")
    done = CliRunner().invoke(app, [verb, str(root), option, str(tmp_path / "file" / name)])
    assert done.exit_code == 2
    assert done.stderr.startswith(f"error: {option} {tmp_path}/file")
    assert "cannot be written" in done.stderr
