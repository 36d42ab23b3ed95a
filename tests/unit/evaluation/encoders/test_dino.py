"""DINO: the embedding of the authors' code and of transformers', from their files; other networks are refused."""

import json
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import Dinov2Config, Dinov2Model, PreTrainedModel, ViTConfig, ViTModel

from evaluation.encoders.dino import load_dino
from evaluation.encoders.specs import DINO_VITS16, DINOV2_VITS14
from evaluation.errors import EncoderWeightsError
from evaluation.protocols import EncoderSpec
from tests.original_dino import cls_token, random_tensors

SPEC = DINO_VITS16.model_copy(update={"architecture": "dino_vitt16", "embedding_size": 192})
SPEC_2 = DINOV2_VITS14.model_copy(update={"architecture": "dinov2_vitt14", "embedding_size": 192})


@pytest.fixture(scope="module")
def images() -> Tensor:
    return torch.randn(2, 3, 224, 224, generator=torch.Generator().manual_seed(1))


@pytest.fixture(scope="module")
def vit() -> ViTModel:
    """A ViT with a pooler, as large as DINO's smallest."""
    torch.manual_seed(2)
    config = ViTConfig(hidden_size=192, num_attention_heads=3, intermediate_size=768, initializer_range=0.06)
    return ViTModel(config).eval()


def saved(net: PreTrainedModel, folder: Path, **settings: object) -> str:
    """Save a network as a folder of transformers with changed settings, and return its path."""
    net.save_pretrained(folder)
    config = json.loads((folder / "config.json").read_text()) | settings
    (folder / "config.json").write_text(json.dumps(config))
    return str(folder)


def test_the_authors_file_gives_the_authors_embedding(tmp_path: Path, images: Tensor) -> None:
    tensors, path = random_tensors(), tmp_path / "dino_deitsmall16_pretrain.pth"
    torch.save(tensors, path)
    dino = load_dino(SPEC, str(path))
    torch.testing.assert_close(dino.embed_images(images), cls_token(tensors, images), atol=1e-5, rtol=0)
    assert dino.weights_hash == sha256(path.read_bytes()).hexdigest()


def test_the_authors_file_of_dinov2_gives_their_embedding(tmp_path: Path, images: Tensor) -> None:
    tensors = random_tensors(patch_px=14, second=True)
    torch.save(tensors, tmp_path / "dinov2.pth")
    found = load_dino(SPEC_2, str(tmp_path / "dinov2.pth")).embed_images(images)
    torch.testing.assert_close(found, cls_token(tensors, images), atol=1e-5, rtol=0)


def test_dinov2_interpolates_positions_as_transformers(tmp_path: Path, images: Tensor) -> None:
    torch.manual_seed(3)
    net = Dinov2Model(Dinov2Config(hidden_size=192, num_attention_heads=3, image_size=518)).eval()
    dino = load_dino(SPEC_2, saved(net, tmp_path))
    with torch.no_grad():
        expected = net(pixel_values=images).last_hidden_state[:, 0]
    torch.testing.assert_close(dino.embed_images(images), expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize("name", ["model.safetensors", "pytorch_model.bin"])
def test_a_folder_gives_transformers_cls_token_not_its_pooler(
    tmp_path: Path, vit: ViTModel, images: Tensor, name: str
) -> None:
    folder = saved(vit, tmp_path)
    if name == "pytorch_model.bin":
        torch.save(load_file(tmp_path / "model.safetensors"), tmp_path / name)
        (tmp_path / "model.safetensors").unlink()
    found = load_dino(SPEC, folder).embed_images(images)
    with torch.no_grad():
        expected = vit(pixel_values=images)
    torch.testing.assert_close(found, expected.last_hidden_state[:, 0], atol=1e-5, rtol=0)
    assert (found - expected.pooler_output).abs().max() > 0.1


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"patch_size": 8}, r"config\.json: patch_size is 8, but DINO ViT-S/16 has 16: give .*facebook/dino-vits16"),
        ({"hidden_act": "quick_gelu"}, r"config\.json: hidden_act is 'quick_gelu', but .* has 'gelu'"),
        ({"num_attention_heads": 6}, r"config\.json: num_attention_heads is 6, but .* has 3"),
        ({"image_size": 384}, r"config\.json: image_size is 384, but .* has 224"),
        ({"model_type": "deit"}, r"config\.json: model_type is 'deit', but .* has 'vit'"),
        ({"intermediate_size": 384}, r"36 tensors .* such as layers\.0\.mlp\.fc1\.bias"),
    ],
)
def test_a_folder_of_another_network_is_refused(
    tmp_path: Path, vit: ViTModel, settings: dict[str, object], message: str
) -> None:
    with pytest.raises(EncoderWeightsError, match=message):
        load_dino(SPEC, saved(vit, tmp_path, **settings))


def drop(name: str) -> Callable[[dict[str, Tensor]], object]:
    return lambda tensors: tensors.pop(name)


def put(name: str, tensor: Tensor) -> Callable[[dict[str, Tensor]], object]:
    return lambda tensors: tensors.update({name: tensor})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (put("patch_embed.proj.weight", torch.zeros(192, 3, 8, 8)), r"dino\.pth: patch size is 8, but .* has 16"),
        (put("patch_embed.proj.weight", torch.zeros(384, 3, 16, 16)), r"dino\.pth: width is 384, but .* has 192"),
        (put("blocks.12.norm1.bias", torch.zeros(192)), r"dino\.pth: layers is 13, but .* has 12"),
        (put("pos_embed", torch.zeros(1, 577, 192)), r"dino\.pth: image size is 384, but .* has 224"),
        (drop("pos_embed"), r"dino\.pth has no tensor pos_embed, so it is no file of facebookresearch/dino"),
        (drop("blocks.3.mlp.fc1.bias"), r"dino\.pth: 1 tensors are missing.*layers\.3\.mlp\.fc1\.bias"),
        (put("register_tokens", torch.zeros(1, 4, 192)), r"dino\.pth: 1 tensors are .*unexpected.*register_tokens"),
        (put("norm.bias", torch.full((192,), torch.nan)), r"dino\.pth: 192 of 192 values of norm\.bias are NaN"),
    ],
)
def test_a_file_of_another_network_is_refused(
    tmp_path: Path, change: Callable[[dict[str, Tensor]], object], message: str
) -> None:
    tensors = random_tensors()
    change(tensors)
    torch.save(tensors, tmp_path / "dino.pth")
    with pytest.raises(EncoderWeightsError, match=message):
        load_dino(SPEC, str(tmp_path / "dino.pth"))


def test_dino_is_no_dinov2(tmp_path: Path) -> None:
    save_file(random_tensors(patch_px=14), tmp_path / "dino.safetensors")
    with pytest.raises(EncoderWeightsError, match=r"no tensor blocks\.0\.ls1\.gamma.*facebookresearch/dinov2"):
        load_dino(SPEC_2, str(tmp_path / "dino.safetensors"))


def test_what_does_not_load_is_refused_with_the_cure(tmp_path: Path) -> None:
    torch.save({"teacher": random_tensors(), "epoch": 3}, tmp_path / "full.pth")
    (tmp_path / "text.pth").write_text("<html>")
    (tmp_path / "empty").mkdir()
    for source, message in {
        "full.pth": r"full\.pth is refused",
        "text.pth": r"text\.pth is refused",
        "empty": r"empty has no config\.json",
        "missing": r"missing does not exist: download facebook/dino-vits16",
    }.items():
        with pytest.raises(EncoderWeightsError, match=message):
            load_dino(SPEC, str(tmp_path / source))


def test_a_hub_id_is_refused_without_the_hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(EncoderWeightsError, match=r"facebook/dino-vits16 is neither a local folder nor in the hub's"):
        load_dino(SPEC, "facebook/dino-vits16")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"architecture": "ViT-S-16"}, "'ViT-S-16' is no architecture of DINO"),
        ({"embedding_size": 384}, "embedding_size is 384, but dino_vitt16 is 192 wide"),
    ],
)
def test_an_impossible_spec_is_refused(changes: dict[str, object], message: str) -> None:
    spec: EncoderSpec = SPEC.model_copy(update=changes)
    with pytest.raises(EncoderWeightsError, match=message):
        load_dino(spec, "nowhere")
