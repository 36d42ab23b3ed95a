"""The networks for cut-outs: found from any folder, and known to be small."""

from pathlib import Path

import pytest

from flows.cutout_networks import load_cutter, small_networks_remark
from flows.generation.generator import DEFAULT_MODEL
from infra.config import SettingsError


def test_the_small_networks_are_found_from_another_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    cutter = load_cutter("demo")
    assert Path(cutter.detect.checkpoint) == DEFAULT_MODEL.parent / "grounding_dino"
    assert Path(cutter.segment.checkpoint) == DEFAULT_MODEL.parent / "sam"
    assert "know only the drawn things" in small_networks_remark(cutter)


def test_weights_of_the_working_folder_come_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("miniature/weights/sam").mkdir(parents=True)
    cutter = load_cutter("demo", ["labeling.detect.checkpoint=my/dino"])
    assert (cutter.detect.checkpoint, cutter.segment.checkpoint) == ("my/dino", "miniature/weights/sam")
    assert small_networks_remark(cutter) == ""


def test_settings_that_do_not_exist_are_refused() -> None:
    with pytest.raises(SettingsError, match="no such file"):
        load_cutter("no-such-file")
