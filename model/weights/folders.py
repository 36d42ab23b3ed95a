"""Load pretrained networks, and save and load trained models.

A base is a folder in diffusers' layout or the hub id of one; an image encoder is a folder in OpenCLIP's hub layout or
the hub id of one. A trained model is a folder with both, and with the added weights:

    model_index.json                                  diffusers' index: the components and the sampler's defaults
    settings.json                                     settings of the model and versions of the libraries; a base in a
                                                      local folder is named by its path relative to this folder
    subject_diffusion.safetensors                     adapters and perceptrons
    unet/ text_encoder/ tokenizer/ vae/ scheduler/    in diffusers' layout
    image_encoder/                                    in OpenCLIP's layout

Files of a variant, such as `fp16`, have its name before their suffix, as diffusers and transformers write them. Folders
without `model_index.json`, from before it was written, load as well.
"""

import json
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import NotRequired, TypedDict, TypeVar

import diffusers
import torch
from diffusers import AutoencoderKL, ConfigMixin, DDPMScheduler, UNet2DConditionModel
from huggingface_hub.errors import EntryNotFoundError
from pydantic import BaseModel, ValidationError
from safetensors.torch import save_file
from torch import Tensor, nn
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from infra.ranges import Count, Factor
from infra.weights.files import first_line
from model.config import ModelConfig
from model.errors import ModelError, ModelWeightsError
from model.inputs.prompt import clip_tokenizer
from model.networks.image_encoder import OPENAI_MEAN, OPENAI_STD, visual_tower
from model.objective.noise import NoiseSchedule
from model.openclip import OpenClipSettings, VisionTransformer, open_clip
from model.weights.bases import advice_on_copies, find_base, locate_file
from model.weights.files import (
    JsonObject,
    check_number_settings,
    check_numbers,
    check_shape,
    check_tensors,
    read_json,
    read_pickled_tensors,
    read_safetensors,
    report_damage,
    require_network_files,
)
from model.weights.tokenizer import load_tokenizer

N = TypeVar("N")
FORMAT = 1
"""Version of the layout of a trained model's folder."""
ADDED_WEIGHTS = "subject_diffusion.safetensors"
"""File of the adapters and perceptrons."""
UNET_PREFIX = "unet.base."
"""Prefix of the stock UNet's tensors in the model's state."""
UNET_FILE = "unet/diffusion_pytorch_model.safetensors"
_VISUAL_FILE = "image_encoder/open_clip_model.safetensors"
INDEX = "model_index.json"
"""File of diffusers' index."""
PIPELINE = "SubjectDiffusionPipeline"
"""Class that the index names."""
_OWN_COMPONENTS = {
    "image_encoder": ("model.networks.image_encoder", "ImageEncoder"),
    "subject_tokens": ("model.networks.adapter", "SubjectTokens"),
    "text_encoder": ("model.networks.text_encoder", "TextEncoder"),
    "unet": ("model.networks.unet", "SubjectUNet"),
}
"""Module and class of the components that are ours."""
VISUAL_PREFIX = "visual."
"""Prefix of the visual tower's tensors in a file of OpenCLIP."""
_REQUIRED_SCHEDULE = ("num_train_timesteps", "beta_start", "beta_end", "beta_schedule")
"""Settings that a base's scheduler must have; the libraries' defaults belong to other models."""
_FOLDERS = ("base", "image_encoder")
"""Settings that may name a local folder."""
KNOWN_IMAGE_ENCODERS = {"laion/CLIP-ViT-H-14-laion2B-s32B-b79K": "ViT-H-14"}
"""OpenCLIP's names of models by hub id; their settings are part of OpenCLIP."""


class _Location(TypedDict):
    """Location of a base, as arguments of `from_pretrained`."""

    pretrained_model_name_or_path: str
    revision: NotRequired[str | None]


@dataclass(frozen=True)
class Parts:
    """The pretrained networks that the model is built from."""

    vae: AutoencoderKL
    unet: UNet2DConditionModel
    text_encoder: CLIPTextModel
    tokenizer: CLIPTokenizer
    scheduler: Mapping[str, object]
    """Settings of the base's scheduler."""
    visual: VisionTransformer
    """Visual tower of OpenCLIP."""
    image_encoder: OpenClipSettings
    """OpenCLIP's settings of `visual`."""


@dataclass(frozen=True)
class LoadOptions:
    """How the weights of a trained model's folder are loaded."""

    dtype: torch.dtype | Mapping[str, torch.dtype] = torch.float32
    """Precision of the weights, or precisions by component, with `default` for the others (float32 by default)."""
    variant: str | None = None
    """Variant of the files, such as `fp16`; parts without files of the variant are loaded from their plain files."""

    def dtype_of(self, component: str) -> torch.dtype:
        """Return the precision of a component: vae, text_encoder, unet, image_encoder or subject_tokens."""
        if isinstance(self.dtype, torch.dtype):
            return self.dtype
        return self.dtype.get(component, self.dtype.get("default", torch.float32))

    def variant_of(self, folder: Path) -> str | None:
        """Return the variant, if `folder` holds files of it."""
        return self.variant if self.variant and any(folder.glob(f"*.{self.variant}.*")) else None

    def file(self, path: Path) -> Path:
        """Return the path of the variant's file, if it exists, otherwise `path`."""
        own = variant_file(path, self.variant)
        return own if own.exists() else path


@dataclass(frozen=True)
class SaveOptions:
    """How a trained model is written."""

    variant: str | None = None
    """Variant that the names of the weights' files get, such as `fp16`."""
    replace: bool = False
    """Whether files of an existing folder are replaced, one by one; otherwise an existing folder is refused."""
    defaults: Mapping[str, float] = field(default_factory=dict)
    """Defaults of the pipeline's arguments, for the index."""


def variant_file(path: Path, variant: str | None) -> Path:
    """Return the name that diffusers gives the file of a variant: `model.fp16.safetensors` for `model.safetensors`."""
    return path if variant is None else path.with_name(f"{path.stem}.{variant}{path.suffix}")


def check_widths(unet: UNet2DConditionModel, vae: AutoencoderKL, text_encoder: CLIPTextModel) -> None:
    """Check that the widths and channels of a base's parts fit each other.

    Raises:
        ModelWeightsError: they do not fit; the message names both numbers.
    """
    text, cross = text_encoder.config.hidden_size, unet.config.cross_attention_dim
    if text != cross:
        raise ModelWeightsError(
            f"the text encoder is {text} wide, the UNet's cross-attention {cross}: take both from one base"
        )
    latent, inputs, outputs = vae.config.latent_channels, unet.config.in_channels, unet.config.out_channels
    if not latent == inputs == outputs:
        raise ModelWeightsError(
            f"the VAE has {latent} latent channels, the UNet takes {inputs} and returns {outputs}: give a "
            f"text-to-image base, where the three agree"
        )


def random_parts(config: ModelConfig) -> Parts:
    """Build the parts of `config` with random weights; under `torch.device("meta")` nothing is allocated."""
    with _report_setting("model.base", config.base):
        base = find_base(config.base, config.base_revision)
        unet = UNet2DConditionModel.from_config(dict(base.unet))
        vae = AutoencoderKL.from_config(dict(base.vae))
        text_encoder = CLIPTextModel(CLIPTextConfig(**base.text_encoder))
        tokenizer = load_tokenizer(config.base) if Path(config.base).expanduser().is_dir() else clip_tokenizer()
    with _report_setting("model.image_encoder", config.image_encoder):
        settings = image_encoder_settings(config.image_encoder, config.image_encoder_revision)
        visual = visual_tower(settings["model_cfg"])
    return Parts(vae, unet, text_encoder, tokenizer, base.scheduler, visual, settings)


def load_base(config: ModelConfig) -> Parts:
    """Load the pretrained parts of `config`, in float32.

    Raises:
        ModelWeightsError: a folder or hub id does not load.
    """
    with _report_setting("model.base", config.base):
        location = _base_location(config)
        unet = load_base_unet(config)
        vae = _load_complete(AutoencoderKL, location, "vae", torch_dtype=torch.float32)
        text_encoder = load_base_text_encoder(config)
        tokenizer = load_tokenizer(config.base, config.base_revision)
        scheduler = _load_scheduler(location)
    with _report_setting("model.image_encoder", config.image_encoder):
        settings = image_encoder_settings(config.image_encoder, config.image_encoder_revision)
        visual = _load_visual(settings, config.image_encoder, config.image_encoder_revision)
    return Parts(vae, unet, text_encoder, tokenizer, scheduler, visual, settings)


def load_base_unet(config: ModelConfig) -> UNet2DConditionModel:
    """Load the base's UNet, in float32.

    Raises:
        ModelWeightsError: the folder or hub id does not load.
    """
    with _report_setting("model.base", config.base):
        return _load_complete(UNet2DConditionModel, _base_location(config), "unet", torch_dtype=torch.float32)


def load_base_text_encoder(config: ModelConfig) -> CLIPTextModel:
    """Load the base's text encoder as it was before training, in float32.

    Raises:
        ModelWeightsError: the folder or hub id does not load.
    """
    with _report_setting("model.base", config.base):
        return _load_complete(CLIPTextModel, _base_location(config), "text_encoder", dtype=torch.float32)


def load_parts(folder: Path, options: LoadOptions) -> Parts:
    """Load the parts of a trained model's folder; the UNet has no weights until `load_network` fills the whole model.

    Raises:
        ModelWeightsError: a part is missing or unreadable.
    """
    with _report_setting("the model's folder", str(folder)):
        if options.variant and not any(folder.rglob(f"*.{options.variant}.*")):
            raise ModelWeightsError(
                f"{folder} holds no files of the variant {options.variant!r}: leave variant out, or copy them"
            )
        unet = _empty_base_unet(folder / "unet")
        location: _Location = {"pretrained_model_name_or_path": str(folder)}
        vae = _load_complete(
            AutoencoderKL,
            location,
            "vae",
            torch_dtype=options.dtype_of("vae"),
            variant=options.variant_of(folder / "vae"),
        )
        text_encoder = _load_complete(
            CLIPTextModel,
            location,
            "text_encoder",
            dtype=options.dtype_of("text_encoder"),
            variant=options.variant_of(folder / "text_encoder"),
        )
        tokenizer = load_tokenizer(folder)
        scheduler = load_schedule(folder)
        settings = image_encoder_settings(str(folder / "image_encoder"), None)
        file = options.file(folder / _VISUAL_FILE).name
        visual = _load_visual(
            settings, str(folder / "image_encoder"), None, file, dtype=options.dtype_of("image_encoder")
        )
    return Parts(vae, unet, text_encoder, tokenizer, scheduler, visual, settings)


def empty_parts(folder: Path) -> Parts:
    """Build the parts of a trained model's folder from their settings, without weights, on the meta device.

    Raises:
        ModelWeightsError: settings or the tokenizer are missing or unreadable.
    """
    with _report_setting("the model's folder", str(folder)):
        settings = image_encoder_settings(str(folder / "image_encoder"), None)
        return Parts(
            vae=empty_network(AutoencoderKL, folder / "vae"),
            unet=_empty_base_unet(folder / "unet"),
            text_encoder=empty_text_encoder(folder / "text_encoder"),
            tokenizer=load_tokenizer(folder),
            scheduler=load_schedule(folder),
            visual=empty_visual_tower(settings),
            image_encoder=settings,
        )


def empty_network(network: type[N], part: Path, **changes: object) -> N:
    """Build a network of diffusers from its settings in a folder, changed by `changes`, on the meta device."""
    path = part / "config.json"
    settings = read_json(path) | changes
    with report_damage(part), torch.device("meta"):
        check_number_settings(settings, network, path)
        built: N = network.from_config(settings)  # type: ignore[attr-defined]
        return built


def empty_text_encoder(part: Path) -> CLIPTextModel:
    """Build a text encoder from its settings in a folder, on the meta device."""
    with report_damage(part), torch.device("meta"):
        return CLIPTextModel(CLIPTextConfig.from_pretrained(part))


def empty_visual_tower(settings: OpenClipSettings) -> VisionTransformer:
    """Build the visual tower of OpenCLIP's settings on the meta device."""
    with torch.device("meta"):
        return visual_tower(settings["model_cfg"])


def _empty_base_unet(part: Path) -> UNet2DConditionModel:
    """Build a trained model's UNet as that of its base, without the channel of the location mask."""
    with report_damage(part):
        channels = read_json(part / "config.json")["out_channels"]
    return empty_network(UNet2DConditionModel, part, in_channels=channels)


def load_settings(folder: Path) -> ModelConfig:
    """Load the settings of a trained model's folder; a local base is named by its absolute path.

    Raises:
        ModelWeightsError: the folder has no settings, or their format is another.
    """
    with _report_setting("the model's folder", str(folder)):
        config = _read_settings(folder / "settings.json")
    paths = {name: folder / getattr(config, name) for name in _FOLDERS}
    return config.model_copy(update={name: str(path.resolve()) for name, path in paths.items() if path.is_dir()})


def save_model(
    folder: Path, parts: Parts, state: Mapping[str, Tensor], config: ModelConfig, options: SaveOptions
) -> None:
    """Write a trained model to a temporary folder and rename it, so that `folder` is complete or does not exist.

    Args:
        folder: folder of the model.
        parts: the networks within the model.
        state: tensors of the whole model.
        config: settings of the model.
        options: how it is written.

    Raises:
        ModelWeightsError: `folder` exists already, or a tensor has values that are not finite.
    """
    if folder.exists() and not options.replace:
        raise ModelWeightsError(f"{folder} already exists: move it away, or give another folder")
    numbers = {name: tensor for name, tensor in state.items() if tensor.is_floating_point()}
    check_numbers(f"{folder} is not written", numbers, "export an earlier checkpoint, or in float32 if this is float16")
    partial = folder.with_name(f".{folder.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    for part in ("unet", "scheduler", "image_encoder"):
        (partial / part).mkdir(parents=True)
    parts.vae.save_pretrained(partial / "vae", variant=options.variant)
    parts.text_encoder.save_pretrained(partial / "text_encoder", variant=options.variant)
    parts.tokenizer.save_pretrained(partial / "tokenizer")
    parts.unet.save_config(partial / "unet")
    _write_json(partial / "scheduler" / "scheduler_config.json", parts.scheduler)
    _write_json(partial / "image_encoder" / "open_clip_config.json", parts.image_encoder)
    _write_json(partial / "settings.json", _settings(_relative_to(folder, config)))
    _write_json(partial / INDEX, _model_index(parts, config, options.defaults))
    visual = {VISUAL_PREFIX + name: tensor for name, tensor in parts.visual.state_dict().items()}
    for name, tensors in (
        (UNET_FILE, stock_unet_tensors(state)),
        (_VISUAL_FILE, visual),
        (ADDED_WEIGHTS, added_tensors(state)),
    ):
        _write_tensors(variant_file(partial / name, options.variant), tensors)
    _publish(partial, folder)


def _publish(partial: Path, folder: Path) -> None:
    """Rename the folder; into an existing one, move file by file, the index last."""
    if not folder.exists():
        partial.rename(folder)
        return
    files = sorted((path.relative_to(partial) for path in partial.rglob("*") if path.is_file()), key=_index_last)
    for file in files:
        (folder / file).parent.mkdir(parents=True, exist_ok=True)
        (partial / file).replace(folder / file)
    shutil.rmtree(partial)


def _index_last(file: Path) -> tuple[bool, Path]:
    return file == Path(INDEX), file


class _Defaults(BaseModel):
    """Defaults of the pipeline's arguments in a model's index, each of which may be missing."""

    num_inference_steps: Count = 50
    text_guidance: Factor = 3.0
    image_guidance: Factor = 1.5


def read_defaults(folder: Path) -> JsonObject:
    """Read the defaults of the pipeline's arguments from a trained model's index; none if it has no index.

    Raises:
        ModelWeightsError: the index is damaged, or that of another pipeline.
    """
    if not (folder / INDEX).exists():
        return {}
    index = read_json(folder / INDEX)
    if index.get("_class_name") != PIPELINE:
        raise ModelWeightsError(
            f"{folder / INDEX} names the pipeline {index.get('_class_name')!r}, not {PIPELINE}: give the folder of a "
            f"trained Subject-Diffusion model"
        )
    try:
        return _Defaults.model_validate(index).model_dump(exclude_unset=True)
    except ValidationError as error:
        raise ModelWeightsError(
            f"{folder / INDEX} has invalid defaults: {_invalid_fields(error)}; correct them"
        ) from error


def _model_index(parts: Parts, config: ModelConfig, defaults: Mapping[str, float]) -> JsonObject:
    components: dict[str, tuple[str | None, object]] = {
        "scheduler": ("diffusers", parts.scheduler.get("_class_name", "PNDMScheduler")),
        "tokenizer": ("transformers", "CLIPTokenizer"),
        "vae": ("diffusers", "AutoencoderKL"),
        **_OWN_COMPONENTS,
    }
    if not config.use_adapter:
        components["subject_tokens"] = (None, None)
    return {"_class_name": PIPELINE, "_diffusers_version": diffusers.__version__, **components, **defaults}


def load_network(net: nn.Module, folder: Path, options: LoadOptions) -> None:
    """Load the UNet and the added weights of a trained model's folder into the whole model.

    Raises:
        ModelWeightsError: a file is missing or damaged, or its tensors do not match the network.
    """
    expected = net.state_dict()
    unet_file, added_file = (options.file(folder / name) for name in (UNET_FILE, ADDED_WEIGHTS))
    with _report_setting("the model's folder", str(folder)):
        unet, added = read_safetensors(unet_file), read_safetensors(added_file)
    check_tensors(unet_file, unet, stock_unet_tensors(expected))
    check_tensors(added_file, added, added_tensors(expected))
    state = {UNET_PREFIX + name: tensor for name, tensor in unet.items()} | added
    cast = {name: tensor.to(options.dtype_of(name.partition(".")[0])) for name, tensor in state.items()}
    net.load_state_dict(cast, strict=False, assign=True)


def stock_unet_tensors(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the tensors of the whole model that belong to diffusers' UNet, by their names there."""
    names = (name for name in state if name.startswith(UNET_PREFIX) and ".fuser." not in name)
    return {name.removeprefix(UNET_PREFIX): state[name] for name in names}


def added_tensors(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the tensors of the whole model's adapters and perceptrons."""
    prefixes = ("text_encoder.subject_mlp.", "subject_tokens.")
    return {name: state[name] for name in state if name.startswith(prefixes) or ".fuser." in name}


def _relative_to(folder: Path, config: ModelConfig) -> ModelConfig:
    """Return the settings with local bases relative to `folder`.

    Model and base can then be moved together, and the model contains no absolute path.
    """
    local = {name: path for name in _FOLDERS if (path := Path(getattr(config, name)).expanduser()).is_dir()}
    return config.model_copy(
        update={name: os.path.relpath(path.resolve(), folder.resolve()) for name, path in local.items()}
    )


def _read_settings(path: Path) -> ModelConfig:
    settings = read_json(path)
    if "format" not in settings or "model" not in settings:
        raise ModelWeightsError(
            f"{path} has no format and model: give the folder of a trained model, or copy this one again"
        )
    if settings["format"] != FORMAT:
        raise ModelWeightsError(f"{path} is of format {settings['format']!r}; this version of the code reads {FORMAT}")
    try:
        return ModelConfig.model_validate(settings["model"])
    except ValidationError as error:
        raise ModelWeightsError(
            f"{path} has settings that this version of the code does not read: {_invalid_fields(error, 'model')}; "
            f"export the model again, or use the version that wrote it"
        ) from error


def _invalid_fields(error: ValidationError, *table: str) -> str:
    return "; ".join(f"{'.'.join(map(str, (*table, *one['loc'])))}: {one['msg']}" for one in error.errors())


def _settings(config: ModelConfig) -> JsonObject:
    libraries = ("torch", "diffusers", "transformers", "open_clip_torch", "safetensors")
    return {
        "format": FORMAT,
        "model": config.model_dump(mode="json"),
        "versions": {library: version(library) for library in libraries},
    }


def _base_location(config: ModelConfig) -> _Location:
    """Return the base as arguments of `from_pretrained`."""
    folder = Path(config.base).expanduser()
    name = str(folder) if folder.is_dir() else config.base
    return {"pretrained_model_name_or_path": name, "revision": config.base_revision}


def _load_complete(
    network: type[N], location: _Location, subfolder: str, *, variant: str | None = None, **precision: torch.dtype
) -> N:
    """Load a network; refuse missing or mismatched tensors, which `from_pretrained` would replace by random ones."""
    part = Path(location["pretrained_model_name_or_path"]) / subfolder
    if part.parent.is_dir():
        require_network_files(part)
    with report_damage(part):
        # ModelMixin and PreTrainedModel share this method, but no base class with types.
        loaded, report = network.from_pretrained(  # type: ignore[attr-defined]
            **location,
            subfolder=subfolder,
            variant=variant,
            output_loading_info=True,
            ignore_mismatched_sizes=True,
            **precision,
        )
    if isinstance(loaded, ConfigMixin):
        check_number_settings(loaded.config, network, part / "config.json")
    files = [*part.glob("*.safetensors"), *part.glob("*.bin")]
    where = files[0] if len(files) == 1 else part
    for name, shape, expected in sorted(report["mismatched_keys"]):
        check_shape(where, name, shape, expected, settings="the settings in config.json")
    if missing := sorted(report["missing_keys"]):
        raise ModelWeightsError(
            f"{where}: {len(missing)} tensors are missing, such as {missing[0]}, which the settings in config.json "
            "require: copy or download both again"
        )
    check_numbers(where, dict(loaded.named_parameters()))
    if isinstance(loaded, ConfigMixin):  # otherwise the path that it was read from would be saved with it
        loaded.register_to_config(_name_or_path="")
    whole: N = loaded
    return whole


def load_schedule(folder: Path) -> Mapping[str, object]:
    """Load the settings of the scheduler of a base's or a trained model's folder.

    Raises:
        ModelWeightsError: the file is damaged, or lacks settings.
    """
    path = folder / "scheduler" / "scheduler_config.json"
    return _require_noise_schedule(path, read_json(path))


def _load_scheduler(location: _Location) -> Mapping[str, object]:
    """Load the settings of the base's scheduler."""
    part = Path(location["pretrained_model_name_or_path"]) / "scheduler"
    with report_damage(part):
        settings = dict(DDPMScheduler.load_config(**location, subfolder="scheduler"))
    return _require_noise_schedule(part / "scheduler_config.json", settings)


def _require_noise_schedule(where: Path, settings: Mapping[str, object]) -> Mapping[str, object]:
    if missing := [name for name in _REQUIRED_SCHEDULE if name not in settings]:
        raise ModelWeightsError(f"{where} does not set {', '.join(missing)}: copy or download it again")
    try:
        NoiseSchedule(settings)
    except ModelWeightsError as error:
        raise ModelWeightsError(f"{where}: {error}") from error
    return settings


def image_encoder_settings(name: str, revision: str | None) -> OpenClipSettings:
    """Return OpenCLIP's settings of an image encoder: a known hub id, a folder, or another hub id.

    Raises:
        ModelWeightsError: its file of settings is damaged or incomplete.
    """
    if name in KNOWN_IMAGE_ENCODERS:
        pixels = {"mean": OPENAI_MEAN, "std": OPENAI_STD}
        return {"model_cfg": open_clip.get_model_config(KNOWN_IMAGE_ENCODERS[name]), "preprocess_cfg": pixels}
    path = locate_file(name, revision, "open_clip_config.json")
    settings = read_json(path)
    if missing := [part for part in ("model_cfg", "preprocess_cfg") if not isinstance(settings.get(part), dict)]:
        raise ModelWeightsError(f"{path} has no {' and '.join(missing)}: give the settings of an OpenCLIP model")
    pixels = settings["preprocess_cfg"]
    if not all(_is_rgb(pixels.get(name)) for name in ("mean", "std")) or min(pixels["std"]) <= 0:
        raise ModelWeightsError(
            f"{path}: mean and std of preprocess_cfg are not three numbers each, std above 0: copy or download it again"
        )
    try:
        with torch.device("meta"):
            visual_tower(settings["model_cfg"])
    except Exception as error:  # OpenCLIP raises many kinds for invalid settings
        raise ModelWeightsError(
            f"{path}: model_cfg gives no visual tower ({type(error).__name__}: {first_line(error)}): copy or download "
            "it again"
        ) from error
    return settings


def _is_rgb(value: object) -> bool:
    return isinstance(value, list) and len(value) == 3 and all(type(one) in (int, float) for one in value)


def _load_visual(
    settings: OpenClipSettings,
    name: str,
    revision: str | None,
    file: str = Path(_VISUAL_FILE).name,
    dtype: torch.dtype = torch.float32,
) -> VisionTransformer:
    """Load the visual tower; the text tower's weights are not read."""
    tower = empty_visual_tower(settings)
    try:
        path = locate_file(name, revision, file)
        weights = read_safetensors(path, VISUAL_PREFIX)
    except (FileNotFoundError, EntryNotFoundError):  # older uploads have the pickled form only
        former = "open_clip_pytorch_model.bin"
        path = locate_file(name, revision, former)
        if not path.exists():
            raise ModelWeightsError(f"{path.parent} lacks {file} or {former}: copy or download it again") from None
        tensors = read_pickled_tensors(path)
        weights = {key.removeprefix(VISUAL_PREFIX): tensors[key] for key in tensors if key.startswith(VISUAL_PREFIX)}
    check_tensors(path, weights, tower.state_dict())
    tower.load_state_dict({key: tensor.to(dtype) for key, tensor in weights.items()}, assign=True)
    return tower


@contextmanager
def _report_setting(setting: str, value: str) -> Iterator[None]:
    """Turn exceptions of the libraries into a `ModelWeightsError` of one line that names the setting and the cure."""
    try:
        yield
    except ModelError:
        raise
    except Exception as error:  # the libraries raise many kinds for a damaged file
        kind, cure = "hub id (no such folder exists)", advice_on_copies(value)
        if Path(value).expanduser().is_dir():
            kind, cure = "folder", "Copy or download it again, or give another"
        raise ModelWeightsError(
            f"{setting}={value!r} does not load as a {kind}: {type(error).__name__}: {first_line(error)}. {cure}"
        ) from error


def _write_json(path: Path, content: Mapping[str, object]) -> None:
    path.write_text(json.dumps(dict(content), indent=2, sort_keys=True) + "\n")


def _write_tensors(path: Path, tensors: Mapping[str, Tensor]) -> None:
    save_file({name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}, path)
