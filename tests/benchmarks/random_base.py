"""Write a Stable Diffusion base and an OpenCLIP image encoder with random weights, in the published layouts.

Files are written tensor by tensor, so a base of 8 GB needs no more memory than its largest tensor.
"""

import json
import math
from collections.abc import Mapping
from pathlib import Path

import torch
from diffusers import PNDMScheduler
from torch import Tensor, nn

from model.config import ModelConfig
from model.cost.count import build_on_meta
from model.weights.folders import Parts, random_parts

_FLOAT32 = 4
"""Bytes per number."""


def write_random_base(folder: Path, config: ModelConfig, seed: int) -> None:
    """Write `base/` and `image_encoder/` under `folder`, in float32, in the shapes of those of `config`.

    OpenCLIP's text tower, which the model does not use, is left out.
    """
    parts = build_on_meta(lambda: random_parts(config))
    random = torch.Generator().manual_seed(seed)
    _write_base(folder / "base", parts, random)
    _write_image_encoder(folder / "image_encoder", parts, random)


def _write_base(folder: Path, parts: Parts, random: torch.Generator) -> None:
    parts.unet.save_config(folder / "unet")
    parts.vae.save_config(folder / "vae")
    parts.text_encoder.config.save_pretrained(folder / "text_encoder")
    parts.tokenizer.save_pretrained(folder / "tokenizer")
    PNDMScheduler(**parts.scheduler).save_pretrained(folder / "scheduler")
    _write_random(folder / "unet" / "diffusion_pytorch_model.safetensors", _shapes(parts.unet), random)
    _write_random(folder / "vae" / "diffusion_pytorch_model.safetensors", _shapes(parts.vae), random)
    _write_random(folder / "text_encoder" / "model.safetensors", _shapes(parts.text_encoder), random)


def _write_image_encoder(folder: Path, parts: Parts, random: torch.Generator) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "open_clip_config.json").write_text(json.dumps(dict(parts.image_encoder), default=list))
    shapes = {f"visual.{name}": shape for name, shape in _shapes(parts.visual).items()}
    _write_random(folder / "open_clip_model.safetensors", shapes, random)


def _shapes(network: nn.Module) -> dict[str, torch.Size]:
    return {name: tensor.shape for name, tensor in network.state_dict().items()}


def _write_random(path: Path, shapes: Mapping[str, torch.Size], random: torch.Generator) -> None:
    """Write a safetensors file: the length of its header, the header as JSON, then the tensors."""
    header: dict[str, object] = {"__metadata__": {"format": "pt"}}
    end = 0
    for name, shape in shapes.items():
        start, end = end, end + _FLOAT32 * math.prod(shape)
        header[name] = {"dtype": "F32", "shape": list(shape), "data_offsets": [start, end]}
    encoded = json.dumps(header).encode()
    encoded += b" " * (-len(encoded) % 8)  # aligns the tensors
    with path.open("wb") as file:
        file.write(len(encoded).to_bytes(8, "little"))
        file.write(encoded)
        for name, shape in shapes.items():
            file.write(_weight(name, shape, random).numpy().data)


def _weight(name: str, shape: torch.Size, random: torch.Generator) -> Tensor:
    """Return zeros for a bias, ones for a norm, and otherwise normal weights that keep the variance of their inputs."""
    if name.endswith("bias"):
        return torch.zeros(shape)
    if len(shape) < 2:
        return torch.ones(shape)
    return torch.randn(shape, generator=random).div_(math.sqrt(math.prod(shape[1:])))
