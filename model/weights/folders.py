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
from pydantic import ValidationError
from safetensors.torch import save_file
from torch import Tensor, nn
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from model.config import ModelConfig
from model.errors import CheckpointError, ModelError
from model.inputs.prompt import clip_tokenizer
from model.networks.image_encoder import OPENAI_MEAN, OPENAI_STD, visual_tower
from model.openclip import VisionTransformer, open_clip
from model.weights.bases import advice_on_copies, find_base, locate_file
from model.weights.files import (
    check_numbers,
    check_shape,
    check_tensors,
    first_line,
    read_json,
    read_pickled_tensors,
    read_safetensors,
    report_damage,
)

N = TypeVar("N")
FORMAT = 1
OURS = "subject_diffusion.safetensors"
UNET = "unet.base."
_UNET = "unet/diffusion_pytorch_model.safetensors"
_VISUAL = "visual."
_NOISE = ("num_train_timesteps", "beta_start", "beta_end", "beta_schedule")
"""What a base's scheduler must say: the libraries' defaults are those of other models."""
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
    with _named("model.base", config.base):
        base = find_base(config.base, config.base_revision)
        unet = UNet2DConditionModel.from_config(dict(base.unet))
        vae = AutoencoderKL.from_config(dict(base.vae))
        text_encoder = CLIPTextModel(CLIPTextConfig(**base.text_encoder))
        tokenizer = _tokenizer(_source(config)) if Path(config.base).expanduser().is_dir() else clip_tokenizer()
    with _named("model.image_encoder", config.image_encoder):
        settings = _image_encoder_settings(config.image_encoder, config.image_encoder_revision)
        visual = visual_tower(settings["model_cfg"])
    return Parts(vae, unet, text_encoder, tokenizer, base.scheduler, visual, settings)


def load_base(config: ModelConfig) -> Parts:
    """The pretrained parts that `config` names, in float32.

    Raises:
        CheckpointError: a folder or hub id does not lead to weights, or they do not fit each other.
    """
    with _named("model.base", config.base):
        source = _source(config)
        unet = load_base_unet(config)
        vae = _whole(AutoencoderKL, source, "vae", torch_dtype=torch.float32)
        text_encoder = load_base_text_encoder(config)
        tokenizer = _tokenizer(source)
        scheduler = _scheduler(source)
    with _named("model.image_encoder", config.image_encoder):
        settings = _image_encoder_settings(config.image_encoder, config.image_encoder_revision)
        visual = _pretrained_visual(settings, config.image_encoder, config.image_encoder_revision)
    return Parts(vae, unet, text_encoder, tokenizer, scheduler, visual, settings)


def load_base_unet(config: ModelConfig) -> UNet2DConditionModel:
    """The base's UNet, in float32.

    Raises:
        CheckpointError: the folder or hub id does not lead to weights.
    """
    with _named("model.base", config.base):
        return _whole(UNet2DConditionModel, _source(config), "unet", torch_dtype=torch.float32)


def load_base_text_encoder(config: ModelConfig) -> CLIPTextModel:
    """The base's text encoder as it was before training, which the second line of Eq. 4 conditions on.

    Raises:
        CheckpointError: the folder or hub id does not lead to weights.
    """
    with _named("model.base", config.base):
        return _whole(CLIPTextModel, _source(config), "text_encoder", dtype=torch.float32)


def load_parts(folder: Path) -> Parts:
    """The parts of a trained model's folder. The UNet has shapes only, until `load_network` fills the finished network.

    Raises:
        CheckpointError: a part is missing or unreadable.
    """
    with _named("the model's folder", str(folder)):
        shapes = read_json(folder / "unet" / "config.json")
        shapes["in_channels"] = shapes["out_channels"]
        with torch.device("meta"):
            unet = UNet2DConditionModel.from_config(shapes)
        source = {"pretrained_model_name_or_path": str(folder)}
        vae = _whole(AutoencoderKL, source, "vae", torch_dtype=torch.float32)
        text_encoder = _whole(CLIPTextModel, source, "text_encoder", dtype=torch.float32)
        tokenizer = _tokenizer(source)
        noise = folder / "scheduler" / "scheduler_config.json"
        scheduler = _with_noise_schedule(noise, read_json(noise))
        settings = _image_encoder_settings(str(folder / "image_encoder"), None)
        visual = _pretrained_visual(settings, str(folder / "image_encoder"), None)
    return Parts(vae, unet, text_encoder, tokenizer, scheduler, visual, settings)


def load_settings(folder: Path) -> ModelConfig:
    """Settings of a trained model's folder; a local base that is there is named by its whole path.

    Raises:
        CheckpointError: there are none, or they are of another format.
    """
    with _named("the model's folder", str(folder)):
        config = _read_settings(folder / "settings.json")
    there = {name: folder / getattr(config, name) for name in _FOLDERS}
    return config.model_copy(update={name: str(path.resolve()) for name, path in there.items() if path.is_dir()})


def save_model(folder: Path, parts: Parts, state: Mapping[str, Tensor], config: ModelConfig) -> None:
    """Write a trained model beside `folder`, then move it there: it is there whole or not at all.

    Args:
        parts: as they are within the model.
        state: the whole model's tensors.

    Raises:
        CheckpointError: `folder` is there already, or a tensor holds other than finite numbers.
    """
    if folder.exists():
        raise CheckpointError(f"{folder} is there already: move it away, or give another folder")
    numbers = {name: tensor for name, tensor in state.items() if tensor.is_floating_point()}
    check_numbers(f"{folder} is not written", numbers, "export an earlier checkpoint, or in float32 if this is float16")
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


def load_network(net: nn.Module, folder: Path) -> None:
    """Fill the UNet of a finished network, and what is ours, from a trained model's folder.

    Raises:
        CheckpointError: a file is missing or damaged, or its tensors are not those of the network.
    """
    wanted = net.state_dict()
    wanted_unet = {name.removeprefix(UNET): tensor for name, tensor in wanted.items() if _is_stock_unet(name)}
    with _named("the model's folder", str(folder)):
        unet, ours = read_safetensors(folder / _UNET), read_safetensors(folder / OURS)
    check_tensors(folder / _UNET, unet, wanted_unet)
    check_tensors(folder / OURS, ours, {name: wanted[name] for name in wanted if _is_ours(name)})
    state = {UNET + name: tensor for name, tensor in unet.items()} | ours
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


def _read_settings(path: Path) -> ModelConfig:
    settings = read_json(path)
    if "format" not in settings or "model" not in settings:
        raise CheckpointError(
            f"{path} has no format and model: give the folder of a trained model, or copy this one again"
        )
    if settings["format"] != FORMAT:
        raise CheckpointError(f"{path} is of format {settings['format']!r}; this version of the code reads {FORMAT}")
    try:
        return ModelConfig.model_validate(settings["model"])
    except ValidationError as error:
        refused = [f"{'.'.join(map(str, ('model', *one['loc'])))}: {one['msg']}" for one in error.errors()]
        raise CheckpointError(
            f"{path} has settings that this version of the code does not read: {'; '.join(refused)}; export the model "
            f"again, or use the version that wrote it"
        ) from error


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


def _whole(network: type[N], source: Mapping[str, Any], subfolder: str, **precision: torch.dtype) -> N:
    """`network.from_pretrained`, which fills what is missing with random weights and only logs it, but not here."""
    part = Path(source["pretrained_model_name_or_path"]) / subfolder
    with report_damage(part):
        loaded, report = network.from_pretrained(  # type: ignore[attr-defined]
            **source, subfolder=subfolder, output_loading_info=True, ignore_mismatched_sizes=True, **precision
        )
    files = [*part.glob("*.safetensors"), *part.glob("*.bin")]
    where = files[0] if len(files) == 1 else part
    for name, found, wanted in report["mismatched_keys"]:
        check_shape(where, name, found, wanted)
    if missing := sorted(report["missing_keys"]):
        raise CheckpointError(
            f"{where}: {len(missing)} tensors are missing, such as {missing[0]}: copy or download it again"
        )
    check_numbers(where, dict(loaded.named_parameters()))
    if isinstance(loaded, ConfigMixin):  # else where it was read from would be written with it
        loaded.register_to_config(_name_or_path="")
    whole: N = loaded
    return whole


def _tokenizer(source: Mapping[str, Any]) -> CLIPTokenizer:
    folder = Path(source["pretrained_model_name_or_path"]) / "tokenizer"
    if folder.is_dir():  # transformers would make up a tokenizer without words
        words = ("tokenizer.json",) if (folder / "tokenizer.json").exists() else ("vocab.json", "merges.txt")
        if missing := [name for name in ("tokenizer_config.json", *words) if not (folder / name).is_file()]:
            raise CheckpointError(f"{folder} lacks {' and '.join(missing)}: copy or download it again")
    with report_damage(folder):
        return CLIPTokenizer.from_pretrained(**source, subfolder="tokenizer")


def _scheduler(source: Mapping[str, Any]) -> Mapping[str, Any]:
    """Settings of the base's scheduler."""
    part = Path(source["pretrained_model_name_or_path"]) / "scheduler"
    with report_damage(part):
        settings = dict(DDPMScheduler.load_config(**source, subfolder="scheduler"))
    return _with_noise_schedule(part, settings)


def _with_noise_schedule(where: Path, settings: Mapping[str, Any]) -> Mapping[str, Any]:
    if lacking := [name for name in _NOISE if name not in settings]:
        raise CheckpointError(f"{where} does not say {', '.join(lacking)}: copy or download it again")
    return settings


def _image_encoder_settings(name: str, revision: str | None) -> dict[str, Any]:
    if name in _KNOWN_IMAGE_ENCODERS:
        pixels = {"mean": OPENAI_MEAN, "std": OPENAI_STD}
        return {"model_cfg": open_clip.get_model_config(_KNOWN_IMAGE_ENCODERS[name]), "preprocess_cfg": pixels}
    path = locate_file(name, revision, "open_clip_config.json")
    settings = read_json(path)
    if lacking := [part for part in ("model_cfg", "preprocess_cfg") if not isinstance(settings.get(part), dict)]:
        raise CheckpointError(f"{path} has no {' and '.join(lacking)}: give the settings of an OpenCLIP model")
    pixels = settings["preprocess_cfg"]
    if not all(_is_of_three_channels(pixels.get(name)) for name in ("mean", "std")) or min(pixels["std"]) <= 0:
        raise CheckpointError(
            f"{path}: mean and std of preprocess_cfg are not three numbers each, std above 0: copy or download it again"
        )
    return settings


def _is_of_three_channels(value: Any) -> bool:
    return isinstance(value, list) and len(value) == 3 and all(type(one) in (int, float) for one in value)


def _pretrained_visual(settings: Mapping[str, Any], name: str, revision: str | None) -> VisionTransformer:
    """The visual tower with its weights; of the text tower's, nothing is read."""
    with torch.device("meta"):
        tower = visual_tower(settings["model_cfg"])
    try:
        path = locate_file(name, revision, "open_clip_model.safetensors")
        weights = read_safetensors(path, _VISUAL)
    except (FileNotFoundError, EntryNotFoundError):  # older uploads have the pickled form only
        path = locate_file(name, revision, "open_clip_pytorch_model.bin")
        tensors = read_pickled_tensors(path)
        weights = {key.removeprefix(_VISUAL): tensors[key] for key in tensors if key.startswith(_VISUAL)}
    check_tensors(path, weights, tower.state_dict())
    tower.load_state_dict({key: tensor.float() for key, tensor in weights.items()}, assign=True)
    return tower


@contextmanager
def _named(setting: str, value: str) -> Iterator[None]:
    """Turn what the libraries raise into one line that names the setting and the cure."""
    try:
        yield
    except ModelError:
        raise
    except Exception as error:  # the libraries raise whatever a damaged file makes them raise
        kind, cure = "hub id (there is no such folder)", advice_on_copies(value)
        if Path(value).expanduser().is_dir():
            kind, cure = "folder", "Copy or download it again, or give another"
        raise CheckpointError(
            f"{setting}={value!r} does not load as a {kind}: {type(error).__name__}: {first_line(error)}. {cure}"
        ) from error


def _write_json(path: Path, content: Mapping[str, Any]) -> None:
    path.write_text(json.dumps(dict(content), indent=2, sort_keys=True) + "\n")


def _write_tensors(path: Path, tensors: Mapping[str, Tensor]) -> None:
    save_file({name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}, path)
