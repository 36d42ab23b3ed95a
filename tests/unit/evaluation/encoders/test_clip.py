"""CLIP: OpenCLIP's and transformers' embeddings from all formats of files; a wrong or unknown activation is refused."""

import json
import logging
import warnings
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor
from torch.nn.functional import normalize
from transformers import CLIPConfig, CLIPModel

from evaluation.encoders.clip import ClipEncoder, load_clip
from evaluation.encoders.clip_files import OPENAI_MARKS
from evaluation.encoders.specs import CLIP_VITB32
from evaluation.errors import EncoderWeightsError
from evaluation.protocols import Activation, EncoderPrecision
from model.openclip import open_clip

SPEC = CLIP_VITB32.model_copy(
    update={"architecture": "ViT-Te-32-quickgelu", "embedding_size": 32, "resize_px": 64, "crop_px": 64}
)
PLAIN_GELU = SPEC.model_copy(update={"architecture": "ViT-Te-32", "activation": Activation.GELU})
SETTINGS = {
    "embed_dim": 32,
    "vision_cfg": {"image_size": 64, "layers": 2, "width": 128, "patch_size": 32},
    "text_cfg": {"context_length": 77, "vocab_size": 49408, "width": 64, "heads": 1, "layers": 2},
}
PROMPTS = ["a cat in the snow", "a red stuffed animal"]


@pytest.fixture(scope="module", autouse=True)
def small_architectures(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Two small architectures among OpenCLIP's, with and without QuickGELU."""
    folder = tmp_path_factory.mktemp("open_clip")
    for name, quick in (("ViT-Te-32-quickgelu", True), ("ViT-Te-32", False)):
        (folder / f"{name}.json").write_text(json.dumps(SETTINGS | {"quick_gelu": quick}))
    open_clip.add_model_config(folder)


@pytest.fixture(scope="module")
def net() -> "open_clip.CLIP":
    torch.manual_seed(0)
    return open_clip.CLIP(**SETTINGS, quick_gelu=True).eval()


@pytest.fixture(scope="module")
def images() -> Tensor:
    return 2 * torch.randn(3, 3, 64, 64, generator=torch.Generator().manual_seed(1))


def save_torchscript(net: "open_clip.CLIP", folder: Path) -> Path:
    """Write what openai/CLIP's links give: a TorchScript archive with the sizes as integers."""
    copy = open_clip.CLIP(**SETTINGS, quick_gelu=True).eval()
    copy.load_state_dict(net.state_dict())
    copy.attn_mask = copy._buffers.pop("attn_mask")  # a constant there
    for name in OPENAI_MARKS:
        copy.__dict__.pop(name, None)
        copy.register_buffer(name, torch.tensor(77))
    inputs = {"encode_image": torch.zeros(1, 3, 64, 64), "encode_text": torch.zeros(1, 77, dtype=torch.long)}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.jit.trace_module(copy, inputs, check_trace=False).save(folder / "ViT-Te-32.pt")
    return folder / "ViT-Te-32.pt"


def save_state_dict(net: "open_clip.CLIP", folder: Path) -> Path:
    marks = {name: torch.tensor(77) for name in OPENAI_MARKS}
    torch.save(net.state_dict() | marks, folder / "clip.pt")
    return folder / "clip.pt"


def save_openclip(net: "open_clip.CLIP", folder: Path, quick_gelu: bool = True) -> Path:
    save_file(net.state_dict(), folder / "open_clip_model.safetensors")
    settings = {"model_cfg": SETTINGS | {"quick_gelu": quick_gelu}, "preprocess_cfg": {}}
    (folder / "open_clip_config.json").write_text(json.dumps(settings))
    return folder


def save_openclip_file(net: "open_clip.CLIP", folder: Path) -> Path:
    return save_openclip(net, folder) / "open_clip_model.safetensors"


def save_openclip_pickle(net: "open_clip.CLIP", folder: Path) -> Path:
    torch.save(net.state_dict(), folder / "open_clip_pytorch_model.bin")
    (save_openclip(net, folder) / "open_clip_model.safetensors").unlink()
    return folder


@pytest.mark.parametrize(
    "save", [save_torchscript, save_state_dict, save_openclip, save_openclip_file, save_openclip_pickle]
)
def test_files_give_openclips_embeddings(
    tmp_path: Path, net: "open_clip.CLIP", images: Tensor, save: Callable[["open_clip.CLIP", Path], Path]
) -> None:
    clip = load_clip(SPEC, str(save(net, tmp_path)))
    with torch.no_grad():
        by_image, by_text = net.encode_image(images), net.encode_text(open_clip.tokenize(PROMPTS))
    torch.testing.assert_close(clip.embed_images(images), by_image, atol=1e-5, rtol=0)
    torch.testing.assert_close(clip.embed_prompts(PROMPTS), by_text, atol=1e-5, rtol=0)


def test_the_hash_is_that_of_the_file(tmp_path: Path, net: "open_clip.CLIP") -> None:
    path = save_state_dict(net, tmp_path)
    assert load_clip(SPEC, str(path)).weights_hash == sha256(path.read_bytes()).hexdigest()


@pytest.mark.parametrize("dtype", [EncoderPrecision.FLOAT16, EncoderPrecision.BFLOAT16])
def test_other_precisions_round_the_embeddings(
    tmp_path: Path, net: "open_clip.CLIP", images: Tensor, dtype: EncoderPrecision
) -> None:
    path = str(save_state_dict(net, tmp_path))
    exact, rounded = load_clip(SPEC, path), load_clip(SPEC.model_copy(update={"dtype": dtype}), path)
    for found, expected in (
        (rounded.embed_images(images), exact.embed_images(images)),
        (rounded.embed_prompts(PROMPTS), exact.embed_prompts(PROMPTS)),
    ):
        assert found.dtype is torch.float32
        assert 1e-6 < (normalize(found) - normalize(expected)).abs().max() < 0.05


@pytest.fixture(scope="module")
def hf_net() -> CLIPModel:
    torch.manual_seed(2)
    towers = {"num_hidden_layers": 2, "initializer_range": 0.5}
    text = towers | {"hidden_size": 64, "intermediate_size": 256, "num_attention_heads": 1, "eos_token_id": 2}
    vision = towers | {"hidden_size": 128, "intermediate_size": 512, "num_attention_heads": 2}
    vision |= {"image_size": 64, "patch_size": 32}
    return CLIPModel(CLIPConfig(projection_dim=32, text_config=text, vision_config=vision)).eval()


def save_transformers(net: CLIPModel, folder: Path, **changes: dict[str, object]) -> str:
    """Save a folder with changed settings of its towers."""
    net.save_pretrained(folder)
    config = json.loads((folder / "config.json").read_text())
    for tower, settings in changes.items():
        config[tower] |= settings
    (folder / "config.json").write_text(json.dumps(config))
    return str(folder)


def test_a_folder_of_transformers_gives_its_embeddings(tmp_path: Path, hf_net: CLIPModel, images: Tensor) -> None:
    clip = load_clip(SPEC, save_transformers(hf_net, tmp_path))
    with torch.no_grad():
        expected = hf_net(pixel_values=images, input_ids=open_clip.tokenize(PROMPTS))
    torch.testing.assert_close(normalize(clip.embed_images(images)), expected.image_embeds, atol=1e-5, rtol=0)
    torch.testing.assert_close(normalize(clip.embed_prompts(PROMPTS)), expected.text_embeds, atol=1e-5, rtol=0)


@pytest.mark.parametrize("tower", ["vision_config", "text_config"])
def test_another_activation_in_one_tower_is_refused(tmp_path: Path, hf_net: CLIPModel, tower: str) -> None:
    folder = save_transformers(hf_net, tmp_path, **{tower: {"hidden_act": "gelu"}})
    with pytest.raises(EncoderWeightsError, match=rf"config\.json: {tower}\.hidden_act is 'gelu', but .*'quick_gelu'"):
        load_clip(SPEC, folder)


def test_settings_of_openclip_with_another_activation_are_refused(tmp_path: Path, net: "open_clip.CLIP") -> None:
    with pytest.raises(EncoderWeightsError, match=r"open_clip_config\.json: quick_gelu is .*'gelu'.*'quick_gelu'"):
        load_clip(SPEC, str(save_openclip(net, tmp_path, quick_gelu=False)))


@pytest.mark.parametrize("name", ["model.safetensors", "model.pt"])
def test_weights_without_a_declared_activation_are_refused(tmp_path: Path, net: "open_clip.CLIP", name: str) -> None:
    path = tmp_path / name
    save_file(net.state_dict(), path) if path.suffix == ".safetensors" else torch.save(net.state_dict(), path)
    with pytest.raises(EncoderWeightsError, match=rf"{name} does not declare its activation.*open_clip_config\.json"):
        load_clip(SPEC, str(path))


def test_openais_file_is_refused_without_quickgelu(tmp_path: Path, net: "open_clip.CLIP") -> None:
    """OpenCLIP itself loads it, without a warning for a local file, and its embeddings are others."""
    path = str(save_state_dict(net, tmp_path))
    with pytest.raises(EncoderWeightsError, match=r"activation is .*'quick_gelu'.*, but .* has 'gelu'"):
        load_clip(PLAIN_GELU, path)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"architecture": "ViT-Te-32"}, "activation is quick_gelu, but OpenCLIP's ViT-Te-32 has gelu.*-quickgelu"),
        ({"architecture": "dino_vits16"}, "'dino_vits16' is no architecture of OpenCLIP"),
        ({"embedding_size": 512}, "embedding_size is 512, but .* has 32"),
        ({"crop_px": 224}, "crop_px is 224, but .* has 64"),
    ],
)
def test_an_impossible_spec_is_refused(changes: dict[str, object], message: str) -> None:
    with pytest.raises(EncoderWeightsError, match=message):
        load_clip(SPEC.model_copy(update=changes), "nowhere")


def test_other_files_are_refused(tmp_path: Path, net: "open_clip.CLIP") -> None:
    folder = save_openclip(net, tmp_path)
    wrong = net.state_dict()
    wrong["visual.proj"] = torch.zeros(128, 64)
    save_file(wrong, folder / "open_clip_model.safetensors")
    with pytest.raises(EncoderWeightsError, match=r"visual\.proj is \[128, 64\], but its settings require \[128, 32\]"):
        load_clip(SPEC, str(folder))
    (folder / "open_clip_config.json").unlink()
    with pytest.raises(EncoderWeightsError, match=r"has no open_clip_config\.json or config\.json"):
        load_clip(SPEC, str(folder))
    (folder / "config.json").write_text('{"model_type": "siglip"}')
    (folder / "model.safetensors").write_bytes((folder / "open_clip_model.safetensors").read_bytes())
    with pytest.raises(EncoderWeightsError, match=r"config\.json describes a network of type 'siglip', not 'clip'"):
        load_clip(SPEC, str(folder))


@pytest.fixture
def clip(tmp_path: Path, net: "open_clip.CLIP") -> ClipEncoder:
    return load_clip(SPEC, str(save_openclip(net, tmp_path)))


def test_a_prompt_that_is_cut_is_reported(clip: ClipEncoder, caplog: pytest.LogCaptureFixture) -> None:
    fits, long = "cat " * 75, "dog " * 76
    assert clip.cut_prompts([fits, long]) == [long]
    with caplog.at_level(logging.WARNING):
        clip.embed_prompts([fits, "a cat"])
        assert caplog.text == ""
        clip.embed_prompts([fits, long, "a cat"])
    assert "reads 77 tokens, so it cuts 1 of 3 prompts, such as 'dog dog" in caplog.text
