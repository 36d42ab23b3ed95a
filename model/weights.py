"""Where the networks' weights come from, and how a trained model is kept.

A base is a diffusers folder or a hub id that leads to one; an image encoder is a folder in OpenCLIP's hub layout, or a
hub id that leads to one. A trained model is a folder of both, with what is ours beside them:

    settings.json                                     the model's settings, versions of the libraries; a base in a
                                                      local folder is named as seen from here
    subject_diffusion.safetensors                     adapters and perceptrons
    unet/ text_encoder/ tokenizer/ vae/ scheduler/    in diffusers' layout
    image_encoder/                                    in OpenCLIP's
"""

import json
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any, TypeVar

import torch
from diffusers import AutoencoderKL, ConfigMixin, DDPMScheduler, UNet2DConditionModel
from huggingface_hub.errors import EntryNotFoundError
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from model.bases import base_of, file_of, where_else
from model.config import ModelConfig
from model.errors import CheckpointError
from model.image_encoder import OPENAI_MEAN, OPENAI_STD, visual_tower
from model.openclip import VisionTransformer, open_clip
from model.prompt import clip_tokenizer

N = TypeVar("N")
FORMAT = 1
OURS = "subject_diffusion.safetensors"
UNET = "unet.base."
_UNET = "unet/diffusion_pytorch_model.safetensors"
_VISUAL = "visual."
_FOLDERS = ("base", "image_encoder")
"""Settings that may name a local folder."""
_KNOWN_IMAGE_ENCODERS = {"laion/CLIP-ViT-H-14-laion2B-s32B-b79K": "ViT-H-14"}


@dataclass(frozen=True)
class Parts:
    """The networks that Subject-Diffusion is put together from, as others trained them."""

    vae: AutoencoderKL
    unet: UNet2DConditionModel
    text_encoder: CLIPTextModel
    tokenizer: CLIPTokenizer
    scheduler: Mapping[str, Any]
    """Settings of the base's scheduler."""
    visual: VisionTransformer
    """OpenCLIP's visual tower."""
    image_encoder: Mapping[str, Any]
    """OpenCLIP's settings of it."""


def check_widths(parts: Parts) -> None:
    """Do the parts fit each other?

    Raises:
        CheckpointError: they do not; names both numbers.
    """
    text, cross = parts.text_encoder.config.hidden_size, parts.unet.config.cross_attention_dim
    if text != cross:
        raise CheckpointError(f"the text encoder is {text} wide, the UNet's cross-attention {cross}: not of one base")
    latent, taken, given = (
        parts.vae.config.latent_channels,
        parts.unet.config.in_channels,
        parts.unet.config.out_channels,
    )
    if not latent == taken == given:
        raise CheckpointError(
            f"the VAE has {latent} latent channels, the UNet takes {taken} and gives {given}: give a text-to-image "
            f"base, where the three agree"
        )


def random_parts(config: ModelConfig) -> Parts:
    """The parts that `config` names, with random weights. Under `torch.device("meta")` nothing is allocated."""
    base = base_of(config.base, config.base_revision)
    settings = _image_encoder_settings(config.image_encoder, config.image_encoder_revision)
    folder = Path(config.base).expanduser()
    return Parts(
        vae=AutoencoderKL.from_config(dict(base.vae)),
        unet=UNet2DConditionModel.from_config(dict(base.unet)),
        text_encoder=CLIPTextModel(CLIPTextConfig(**base.text_encoder)),
        tokenizer=CLIPTokenizer.from_pretrained(folder / "tokenizer") if folder.is_dir() else clip_tokenizer(),
        scheduler=base.scheduler,
        visual=visual_tower(settings["model_cfg"]),
        image_encoder=settings,
    )


def parts_of_base(config: ModelConfig) -> Parts:
    """The pretrained parts that `config` names, in float32.

    Raises:
        CheckpointError: a folder or hub id does not lead to weights, or they do not fit each other.
    """
    with _named("model.base", config.base):
        source = _source(config)
        unet = unet_of(config)
        vae = _whole(AutoencoderKL, **source, subfolder="vae", torch_dtype=torch.float32)
        text_encoder = text_encoder_of(config)
        tokenizer = CLIPTokenizer.from_pretrained(**source, subfolder="tokenizer")
        scheduler = DDPMScheduler.load_config(**source, subfolder="scheduler")
    with _named("model.image_encoder", config.image_encoder):
        settings = _image_encoder_settings(config.image_encoder, config.image_encoder_revision)
        visual = _pretrained_visual(settings, config.image_encoder, config.image_encoder_revision)
    return Parts(vae, unet, text_encoder, tokenizer, scheduler, visual, settings)


def unet_of(config: ModelConfig) -> UNet2DConditionModel:
    """The base's UNet, in float32.

    Raises:
        CheckpointError: the folder or hub id does not lead to weights.
    """
    with _named("model.base", config.base):
        return _whole(UNet2DConditionModel, **_source(config), subfolder="unet", torch_dtype=torch.float32)


def text_encoder_of(config: ModelConfig) -> CLIPTextModel:
    """The base's text encoder as it was before training, which the second line of Eq. 4 conditions on.

    Raises:
        CheckpointError: the folder or hub id does not lead to weights.
    """
    with _named("model.base", config.base):
        return _whole(CLIPTextModel, **_source(config), subfolder="text_encoder", dtype=torch.float32)


def parts_of_folder(folder: Path) -> Parts:
    """The parts of a trained model's folder. The UNet has shapes only, until `load_ours` fills the finished network.

    Raises:
        CheckpointError: a part is missing or unreadable.
    """
    with _named("the model's folder", str(folder)):
        shapes = dict(UNet2DConditionModel.load_config(folder / "unet"))
        shapes["in_channels"] = shapes["out_channels"]
        with torch.device("meta"):
            unet = UNet2DConditionModel.from_config(shapes)
        vae = _whole(AutoencoderKL, pretrained_model_name_or_path=folder / "vae", torch_dtype=torch.float32)
        text_encoder = _whole(CLIPTextModel, pretrained_model_name_or_path=folder / "text_encoder", dtype=torch.float32)
        tokenizer = CLIPTokenizer.from_pretrained(folder / "tokenizer")
        scheduler = json.loads((folder / "scheduler" / "scheduler_config.json").read_text())
        settings = _image_encoder_settings(str(folder / "image_encoder"), None)
        visual = _pretrained_visual(settings, str(folder / "image_encoder"), None)
    return Parts(vae, unet, text_encoder, tokenizer, scheduler, visual, settings)


def settings_of_folder(folder: Path) -> ModelConfig:
    """Settings of a trained model's folder; a local base that is there is named by its whole path.

    Raises:
        CheckpointError: there are none, or they are of another format.
    """
    with _named("the model's folder", str(folder)):
        settings = json.loads((folder / "settings.json").read_text())
    if settings["format"] != FORMAT:
        raise CheckpointError(f"{folder} is of format {settings['format']}; this version of the code reads {FORMAT}")
    config = ModelConfig.model_validate(settings["model"])
    there = {name: folder / getattr(config, name) for name in _FOLDERS}
    return config.model_copy(update={name: str(path.resolve()) for name, path in there.items() if path.is_dir()})


def save(folder: Path, parts: Parts, state: Mapping[str, Tensor], config: ModelConfig) -> None:
    """Write a trained model beside `folder`, then move it there: it is there whole or not at all.

    Args:
        parts: as they are within the model.
        state: the whole model's tensors.

    Raises:
        CheckpointError: `folder` is there already.
    """
    if folder.exists():
        raise CheckpointError(f"{folder} is there already: move it away, or give another folder")
    partial = folder.with_name(f".{folder.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    for part in ("unet", "scheduler", "image_encoder"):
        (partial / part).mkdir(parents=True)
    parts.vae.save_pretrained(partial / "vae")
    parts.text_encoder.save_pretrained(partial / "text_encoder")
    parts.tokenizer.save_pretrained(partial / "tokenizer")
    parts.unet.save_config(partial / "unet")
    _write_json(partial / "scheduler" / "scheduler_config.json", parts.scheduler)
    _write_json(partial / "image_encoder" / "open_clip_config.json", parts.image_encoder)
    _write_json(partial / "settings.json", _settings(_seen_from(folder, config)))
    _write_tensors(partial / _UNET, {name.removeprefix(UNET): state[name] for name in state if _is_stock_unet(name)})
    _write_tensors(
        partial / "image_encoder" / "open_clip_model.safetensors",
        {_VISUAL + name: tensor for name, tensor in parts.visual.state_dict().items()},
    )
    _write_tensors(partial / OURS, {name: state[name] for name in state if _is_ours(name)})
    partial.rename(folder)


def load_ours(net: nn.Module, folder: Path) -> None:
    """Fill the UNet of a finished network, and what is ours, from a trained model's folder.

    Raises:
        CheckpointError: a tensor is missing or belongs nowhere.
    """
    with _named("the model's folder", str(folder)):
        state = {UNET + name: tensor for name, tensor in load_file(folder / _UNET).items()} | load_file(folder / OURS)
    wanted = {name for name in net.state_dict() if _is_stock_unet(name) or _is_ours(name)}
    if odd := sorted(wanted ^ state.keys()):
        raise CheckpointError(
            f"{folder}: {len(odd)} tensors are missing or too many, such as {odd[0]}: its settings.json and its "
            f"weights are not of one model"
        )
    net.load_state_dict({name: tensor.float() for name, tensor in state.items()}, strict=False, assign=True)


def _is_stock_unet(name: str) -> bool:
    return name.startswith(UNET) and ".fuser." not in name


def _is_ours(name: str) -> bool:
    return name.startswith(("text_encoder.subject_mlp.", "subject_tokens.")) or ".fuser." in name


def _seen_from(folder: Path, config: ModelConfig) -> ModelConfig:
    """So that both folders can be moved together, and no path of this machine is in the model."""
    local = {name: path for name in _FOLDERS if (path := Path(getattr(config, name)).expanduser()).is_dir()}
    return config.model_copy(
        update={name: os.path.relpath(path.resolve(), folder.resolve()) for name, path in local.items()}
    )


def _settings(config: ModelConfig) -> dict[str, Any]:
    libraries = ("torch", "diffusers", "transformers", "open_clip_torch", "safetensors")
    return {
        "format": FORMAT,
        "model": config.model_dump(mode="json"),
        "versions": {library: version(library) for library in libraries},
    }


def _source(config: ModelConfig) -> dict[str, Any]:
    """The base, as `from_pretrained` of its parts takes it."""
    folder = Path(config.base).expanduser()
    name = str(folder) if folder.is_dir() else config.base
    return {"pretrained_model_name_or_path": name, "revision": config.base_revision}


def _whole(network: type[N], **source: Any) -> N:
    """`network.from_pretrained`, which fills what is missing with random weights and only logs it, but not here."""
    loaded, report = network.from_pretrained(**source, output_loading_info=True)  # type: ignore[attr-defined]
    if missing := sorted(report["missing_keys"]):
        raise ValueError(
            f"{source.get('subfolder', network.__name__)}: {len(missing)} tensors are missing, such as {missing[0]}"
        )
    if isinstance(loaded, ConfigMixin):  # else where it was read from would be written with it
        loaded.register_to_config(_name_or_path="")
    whole: N = loaded
    return whole


def _image_encoder_settings(name: str, revision: str | None) -> dict[str, Any]:
    if name in _KNOWN_IMAGE_ENCODERS:
        pixels = {"mean": OPENAI_MEAN, "std": OPENAI_STD}
        return {"model_cfg": open_clip.get_model_config(_KNOWN_IMAGE_ENCODERS[name]), "preprocess_cfg": pixels}
    settings: dict[str, Any] = json.loads(file_of(name, revision, "open_clip_config.json").read_text())
    return settings


def _pretrained_visual(settings: Mapping[str, Any], name: str, revision: str | None) -> VisionTransformer:
    """The visual tower with its weights; of the text tower's, nothing is read."""
    with torch.device("meta"):
        tower = visual_tower(settings["model_cfg"])
    try:
        weights = _visual_of_safetensors(file_of(name, revision, "open_clip_model.safetensors"))
    except (FileNotFoundError, EntryNotFoundError):  # older uploads have the pickled form only
        weights = _visual_of_pickle(file_of(name, revision, "open_clip_pytorch_model.bin"))
    tower.load_state_dict({key: tensor.float() for key, tensor in weights.items()}, assign=True)
    return tower


def _visual_of_safetensors(path: Path) -> dict[str, Tensor]:
    with safe_open(path, framework="pt") as tensors:
        visual = [key for key in tensors.keys() if key.startswith(_VISUAL)]  # noqa: SIM118
        return {key.removeprefix(_VISUAL): tensors.get_tensor(key) for key in visual}


def _visual_of_pickle(path: Path) -> dict[str, Tensor]:
    tensors = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    return {key.removeprefix(_VISUAL): tensor for key, tensor in tensors.items() if key.startswith(_VISUAL)}


@contextmanager
def _named(setting: str, value: str) -> Iterator[None]:
    """Turn what the libraries raise into one line that names the setting and the cure."""
    try:
        yield
    except (OSError, ValueError, KeyError, RuntimeError) as error:
        reason = (str(error).strip().splitlines() or [""])[0].rstrip(".")
        kind = "folder" if Path(value).expanduser().is_dir() else "hub id (there is no such folder)"
        raise CheckpointError(
            f"{setting}={value!r} does not load as a {kind}: {type(error).__name__}: {reason}. {where_else(value)}"
        ) from error


def _write_json(path: Path, content: Mapping[str, Any]) -> None:
    path.write_text(json.dumps(dict(content), indent=2, sort_keys=True) + "\n")


def _write_tensors(path: Path, tensors: Mapping[str, Tensor]) -> None:
    save_file({name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}, path)
