"""Embeddings of DINOv2 and CLIP against transformers' own processor and network, on random weights."""

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from transformers import (
    BitImageProcessor,
    CLIPImageProcessor,
    CLIPVisionConfig,
    CLIPVisionModelWithProjection,
    Dinov2Config,
    Dinov2Model,
)

from infra.weights.files import WeightsState
from labeling.backends.image_embedder import TransformersEmbedder
from labeling.backends.image_embedder_check import check_embedder
from labeling.backends.load import load_embedder
from labeling.config import EmbedConfig
from labeling.errors import BackendWeightsError
from tests.unit.labeling.backends.sam.test_backends import picture

IMAGES = [picture(50, 70, 0), picture(90, 40, 1), picture(64, 64, 2)]
SIZES = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "image_size": 28, "patch_size": 14}
PROCESSING = {"size": {"shortest_edge": 32}, "crop_size": {"height": 28, "width": 28}}


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("embedders")
    torch.manual_seed(0)
    Dinov2Model(Dinov2Config(**SIZES)).save_pretrained(root / "dinov2")
    BitImageProcessor(**PROCESSING).save_pretrained(root / "dinov2")
    clip = CLIPVisionConfig(**SIZES, intermediate_size=48, projection_dim=16)
    CLIPVisionModelWithProjection(clip).save_pretrained(root / "clip")
    CLIPImageProcessor(**PROCESSING).save_pretrained(root / "clip")
    return {name: root / name for name in ("dinov2", "clip")}


def config(folder: Path) -> EmbedConfig:
    return EmbedConfig.model_validate({"checkpoint": str(folder), "device": "cpu"})


def embed(folder: Path, images: list[np.ndarray]) -> np.ndarray:
    embedder = load_embedder(config(folder))
    assert isinstance(embedder, TransformersEmbedder)
    return embedder.embed([embedder.prepare(image) for image in images])


@pytest.mark.parametrize("name", ["dinov2", "clip"])
@torch.inference_mode()
def test_embeddings_are_those_of_transformers_own_chain(folders: dict[str, Path], name: str) -> None:
    classes = {"dinov2": (Dinov2Model, BitImageProcessor), "clip": (CLIPVisionModelWithProjection, CLIPImageProcessor)}
    network, processor = (each.from_pretrained(folders[name]) for each in classes[name])
    pixels = processor(images=[Image.fromarray(image) for image in IMAGES], return_tensors="pt")["pixel_values"]
    output = network.eval()(pixels)
    own = output.image_embeds if name == "clip" else output.last_hidden_state[:, 0]
    expected = own / own.norm(dim=-1, keepdim=True)
    found = embed(folders[name], IMAGES)
    np.testing.assert_allclose(found, expected.numpy(), atol=2e-3)  # its processor may resize by another library
    assert np.linalg.norm(found, axis=1) == pytest.approx(1.0)


def test_weights_that_do_not_fit_are_refused(folders: dict[str, Path], tmp_path: Path) -> None:
    for folder in folders.values():
        assert check_embedder(config(folder)).state == WeightsState.FINE
    shutil.copytree(folders["dinov2"], tmp_path / "net")
    weights = load_file(tmp_path / "net" / "model.safetensors")
    del weights[min(weights)]
    save_file(weights, tmp_path / "net" / "model.safetensors", {"format": "pt"})
    assert check_embedder(config(tmp_path / "net")).state == WeightsState.MISMATCH
    with pytest.raises(BackendWeightsError, match="lacks 1 tensors of a Dinov2Model"):
        TransformersEmbedder(config(tmp_path / "net"))
    with pytest.raises(BackendWeightsError, match=r"type 'blip-2'; embeddings are made by dinov2"):
        TransformersEmbedder(config(Path("miniature/weights/blip2")))
