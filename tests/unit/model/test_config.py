"""Presets are files that load and say what differs; combinations that contradict each other are refused."""

import tomllib
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from infra.config import Config, load
from model.config import DropConfig, ModelConfig, SubjectConfig

CONFIGS = Path(__file__).parents[3] / "infra" / "configs"
ABLATIONS = sorted((CONFIGS / "ablations").glob("*.toml"))


class Model(Config):
    model: ModelConfig = ModelConfig()


def preset(name: str) -> ModelConfig:
    return load(Model, CONFIGS / f"{name}.toml").model


def test_the_paper_is_the_default():
    paper = preset("paper")
    assert paper == ModelConfig()
    assert (paper.beta, paper.lambda_attn, paper.attention_downsampling) == (1.0, 0.01, (2, 4, 8))


def differences(one: dict[str, Any], other: dict[str, Any]) -> set[str]:
    return {key for key in one if one[key] != other[key]}


def test_the_official_preset_takes_the_released_codes_side_of_every_difference():
    apart = differences(preset("official").model_dump(), ModelConfig().model_dump())
    agreed = {"base", "base_revision", "image_encoder", "image_encoder_revision", "frozen_precision", "beta"}
    agreed |= {name for name in ModelConfig.model_fields if "use_" in name}
    agreed |= {"lambda_attn", "attention_downsampling", "departures"}
    assert apart == ModelConfig.model_fields.keys() - agreed


@pytest.mark.parametrize("path", ABLATIONS, ids=lambda path: path.stem)
def test_an_ablation_turns_one_switch_off(path: Path):
    assert len(path.read_text().splitlines()) == 4
    switch = differences(load(Model, path).model.model_dump(), ModelConfig().model_dump())
    assert len(switch) == 1
    assert not getattr(load(Model, path).model, switch.pop())


def test_there_is_an_ablation_for_each_row_of_table_3():
    switches = {key for path in ABLATIONS for key in tomllib.loads(path.read_text())["model"]}
    assert switches == {name for name in ModelConfig.model_fields if name.startswith("use_")}
    assert [path.stem[0] for path in ABLATIONS] == list("cdefg")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"use_box_coordinates": False, "box_condition": "null_for_single"}, "box_condition"),
        ({"attention_downsampling": ()}, "leaves Eq. 2 without layers"),
        ({"subject": {"background": "random"}}, "backgrounds to a folder"),
        ({"drop": {"text": 0.5, "all": 0.6}}, "add up to 1.2"),
        ({"drop": {"fixed_rows": True}, "null_branches": "zero_tokens"}, "model.drop.fixed_rows skips adapters"),
        ({"max_subjects": 0}, "max_subjects"),
    ],
)
def test_contradictions_are_refused(settings: dict[str, Any], message: str):
    with pytest.raises(ValidationError, match=message):
        ModelConfig.model_validate(settings)


def test_the_same_parts_alone_are_fine():
    assert not ModelConfig(attention_downsampling=(), use_attention_control=False).attention_downsampling
    assert DropConfig(text=0.5, image=0.0, layout=0.0, all=0.5).all == 0.5
    assert SubjectConfig.model_validate({"background": "random", "backgrounds": "photos"}).backgrounds == "photos"
