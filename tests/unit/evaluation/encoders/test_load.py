"""Choice of loader and weights by the spec."""

from pathlib import Path

import pytest
import torch

from evaluation.config import EncodersConfig
from evaluation.encoders.dino import DinoEncoder
from evaluation.encoders.load import SETTINGS, encoder_source, load_encoder
from evaluation.encoders.specs import CLIP_VITB32, DINO_VITS16, SPECS
from evaluation.errors import EncoderWeightsError
from evaluation.protocols import EncoderPrecision
from tests.original_dino import cls_token, random_tensors


def test_every_published_encoder_has_a_setting_with_its_weights() -> None:
    assert {encoder_source(spec, EncodersConfig()): spec for spec in SPECS} == {spec.weights: spec for spec in SPECS}
    assert {*SETTINGS, "facenet"} == set(EncodersConfig.model_fields)


def test_dino_loads_at_full_size_and_in_other_precisions(tmp_path: Path) -> None:
    tensors = random_tensors(width=384)
    torch.save(tensors, tmp_path / "dino.pth")
    config = EncodersConfig(dino_vits16=str(tmp_path / "dino.pth"))
    images = torch.randn(1, 3, 224, 224)
    expected = cls_token(tensors, images, heads=6)
    dino = load_encoder(DINO_VITS16, config)
    assert isinstance(dino, DinoEncoder)
    torch.testing.assert_close(dino.embed_images(images), expected, atol=1e-5, rtol=0)
    rounded = load_encoder(DINO_VITS16.model_copy(update={"dtype": EncoderPrecision.BFLOAT16}), config)
    found = rounded.embed_images(images)
    assert found.dtype is torch.float32
    assert 1e-4 < (found - expected).abs().max() < 0.2


def test_clip_is_loaded_as_clip(tmp_path: Path) -> None:
    with pytest.raises(EncoderWeightsError, match=r"has no open_clip_config\.json or config\.json"):
        load_encoder(CLIP_VITB32, EncodersConfig(clip_vitb32=str(tmp_path)))


def test_weights_without_a_setting_are_refused() -> None:
    with pytest.raises(EncoderWeightsError, match="no setting names the weights mine; there are facebook/dino-vits16"):
        encoder_source(DINO_VITS16.model_copy(update={"weights": "mine"}), EncodersConfig())
