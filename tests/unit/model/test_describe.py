"""What the tables say, at full width and on a small base."""

from pathlib import Path

import pytest

from model.config import ModelConfig, Recompute
from model.cost.budget import sampling_budget, training_budget, unet_cost
from model.cost.count import build_on_meta
from model.describe import ParameterCount, count_parameters, main
from model.sampling.guidance import Guidance
from model.subject_diffusion import SubjectDiffusion
from tests.small_model import two_level_config


def sums(config: ModelConfig) -> ParameterCount:
    net = build_on_meta(lambda: SubjectDiffusion.from_config(config))
    parts = count_parameters(net)
    assert sum(part.all for part in parts) == sum(weight.numel() for weight in net.parameters())
    return ParameterCount("total", sum(part.all for part in parts), sum(part.trainable for part in parts))


def test_parts_add_up_to_the_counts_of_the_paper_at_full_width() -> None:
    """App. A says 2.5 B and 0.7 B; with the text tower's 354.0 M the first is met, the second is not."""
    without, with_feed_forward = sums(ModelConfig()), sums(ModelConfig(adapter_feed_forward=True))
    assert with_feed_forward.all + 354_032_641 == pytest.approx(2.49e9, rel=0.002)
    assert without.trainable == pytest.approx(0.433e9, rel=0.002)
    assert with_feed_forward.trainable - without.trainable == 148_822_096


def test_prints_every_table(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = two_level_config(tmp_path)
    settings = tmp_path / "small.toml"
    settings.write_text(
        f'[model]\nbase = "{config.base}"\nimage_encoder = "{config.image_encoder}"\nattention_downsampling = [1, 2]\n'
    )
    assert main(["--config", str(settings), "--batch", "2", "--subjects", "1", "--workers", "3"]) == 0
    printed = capsys.readouterr().out
    for words in (
        "FSDP2 on 3",
        "AdamW's moments",
        "total, at most",
        "trainable",
        "the paper (App. A)",
        "latents cached",
        "recompute feed_forwards",
        "51 evaluations",
    ):
        assert words in printed


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--set", "model.base=nobody/nothing"], "'nobody/nothing' is neither a known base"),
        (["--set", "model.no_such_key=1"], "no_such_key"),
        (["--config", "missing.toml"], "missing.toml"),
    ],
)
def test_bad_settings_are_reported(arguments: list[str], words: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(arguments) == 2
    assert words in capsys.readouterr().err


def test_budgets_grow_with_images_and_subjects(tmp_path: Path) -> None:
    config = two_level_config(tmp_path, adapter_feed_forward=True)
    one, two = training_budget(config, 1, 1), training_budget(config, 2, 2)
    assert two.vae == 2 * one.vae
    assert two.image_encoder == 4 * one.image_encoder
    assert two.flops() - two.flops(cached_latents=True, cached_features=True) == two.vae + two.image_encoder
    kept = [unet_cost(config, 2, 2, what).saved_bytes for what in Recompute]
    assert kept == sorted(kept, reverse=True)
    assert unet_cost(config, 2, 2, maps=False).saved_bytes < kept[0]


def test_sampling_fewer_branches_costs_less(tmp_path: Path) -> None:
    config = two_level_config(tmp_path)
    three, one = sampling_budget(config, 2), sampling_budget(config, 2, Guidance(text=1, image=1))
    assert 2 * one.step < three.step < 3 * one.step
    assert one.flops(51) == one.once + 51 * one.step
