"""The GPU script, where there is no GPU: that it runs, and fills its tables."""

from pathlib import Path

import pytest

from tests.benchmarks.gpu_model import main

pytestmark = pytest.mark.bench


def test_runs_on_the_cpu_at_miniature_width(tmp_path: Path) -> None:
    small = ["--device", "cpu", "--size", "small", "--folder", str(tmp_path / "small"), "--no-compile"]
    short = ["--images", "2", "--warm-up", "0", "--rounds", "1"]
    main([*small, *short, "--recompute", "activations", "--out", str(tmp_path / "result.md")])
    written = (tmp_path / "result.md").read_text()
    for words in ("| N |", "| ours, latents cached, no map loss |", "| image, ours |", "| G1 |", "| G6 |"):
        assert words in written
