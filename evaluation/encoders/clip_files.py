"""Files of CLIP in three formats, read to OpenCLIP's names, with the activation that they declare."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import CLIPConfig

from evaluation.encoders.checkpoint import HF_NAMES, Checkpoint, Reader, find_file, floats
from evaluation.errors import EncoderWeightsError
from evaluation.protocols import Activation
from model.weights.files import read_json

OPENCLIP_SETTINGS = "open_clip_config.json"
OPENCLIP_NAMES = ("open_clip_model.safetensors", "open_clip_pytorch_model.bin")
"""Names of the file of weights in a folder of OpenCLIP."""
HUB_PATTERNS = ("config.json", OPENCLIP_SETTINGS, *HF_NAMES, *OPENCLIP_NAMES)
OPENAI_MARKS = frozenset({"input_resolution", "context_length", "vocab_size"})
"""Integers beside the weights in the files of openai/CLIP, by which they are known (openai/CLIP clip/model.py)."""


@dataclass(frozen=True, slots=True)
class ClipWeights:
    """Weights of a CLIP."""

    checkpoint: Checkpoint
    """The file, with its own names."""
    tensors: Mapping[str, Tensor]
    """Tensors by OpenCLIP's names."""
    activations: Mapping[str, str] | None
    """Activations that the files declare, by the names of their settings; None if they declare none."""
    declared_in: Path
    """File that declares them."""


def read_clip(path: Path, read: Reader) -> ClipWeights:
    """Read a file of openai/CLIP or OpenCLIP, or a folder of OpenCLIP or transformers.

    Raises:
        EncoderWeightsError: the folder holds neither.
    """
    if path.is_file():
        return _read_file(path, read)
    if (path / OPENCLIP_SETTINGS).is_file():
        return _read_file(find_file(path, OPENCLIP_NAMES), read)
    if (path / "config.json").is_file():
        return _read_transformers(path, read)
    raise EncoderWeightsError(
        f"{path} has no {OPENCLIP_SETTINGS} or config.json: give the folder with the settings beside the weights"
    )


def _read_file(path: Path, read: Reader) -> ClipWeights:
    raw, settings = read(path), path.with_name(OPENCLIP_SETTINGS)
    tensors = floats(raw)
    if raw.keys() >= OPENAI_MARKS:
        return ClipWeights(Checkpoint(path, tensors), tensors, {"activation": Activation.QUICK_GELU.value}, path)
    return ClipWeights(Checkpoint(path, tensors), tensors, openclip_activation(settings), settings)


def openclip_activation(settings: Path) -> dict[str, str] | None:
    """Return the activation that OpenCLIP's settings declare; None if there is no such file.

    Raises:
        EncoderWeightsError: the file holds no settings of a model.
    """
    if not settings.is_file():
        return None
    model = read_json(settings).get("model_cfg")
    if not isinstance(model, dict):
        raise EncoderWeightsError(f"{settings} has no model_cfg: copy it again")
    activation = Activation.QUICK_GELU if model.get("quick_gelu", False) else Activation.GELU
    return {"quick_gelu": activation.value}


def _read_transformers(folder: Path, read: Reader) -> ClipWeights:
    activations, path = transformers_activations(folder), find_file(folder, HF_NAMES)
    checkpoint = Checkpoint(path, floats(read(path)))
    return ClipWeights(checkpoint, to_openclip(checkpoint.tensors), activations, folder / "config.json")


def transformers_activations(folder: Path) -> dict[str, str]:
    """Return the activations of both towers in a folder of transformers.

    Raises:
        EncoderWeightsError: the settings are those of another network than CLIP.
    """
    settings: dict[str, Any] = read_json(folder / "config.json")
    if settings.get("model_type") != CLIPConfig.model_type:
        raise EncoderWeightsError(
            f"{folder / 'config.json'} describes a network of type {settings.get('model_type')!r}, not 'clip': give "
            f"a folder of CLIPModel"
        )
    config = CLIPConfig.from_dict(settings)  # fills in what older settings leave out
    return {f"{tower}.hidden_act": getattr(config, tower).hidden_act for tower in ("vision_config", "text_config")}


_RENAMED = {
    "vision_model.embeddings.class_embedding": "visual.class_embedding",
    "vision_model.embeddings.patch_embedding.weight": "visual.conv1.weight",
    "vision_model.embeddings.position_embedding.weight": "visual.positional_embedding",
    "vision_model.pre_layrnorm.": "visual.ln_pre.",
    "vision_model.post_layernorm.": "visual.ln_post.",
    "vision_model.encoder.layers.": "visual.transformer.resblocks.",
    "text_model.embeddings.token_embedding.": "token_embedding.",
    "text_model.embeddings.position_embedding.weight": "positional_embedding",
    "text_model.final_layer_norm.": "ln_final.",
    "text_model.encoder.layers.": "transformer.resblocks.",
    "visual_projection.weight": "visual.proj",
    "text_projection.weight": "text_projection",
    ".layer_norm1.": ".ln_1.",
    ".layer_norm2.": ".ln_2.",
    ".mlp.fc1.": ".mlp.c_fc.",
    ".mlp.fc2.": ".mlp.c_proj.",
    ".self_attn.out_proj.": ".attn.out_proj.",
    ".self_attn.in_proj_": ".attn.in_proj_",
}
"""Parts of transformers' names, and what OpenCLIP calls them."""
_TRANSPOSED = frozenset({"visual.proj", "text_projection"})


def to_openclip(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the tensors of transformers' CLIPModel by OpenCLIP's names, with queries, keys and values in one."""
    renamed = {_rename(name): tensor for name, tensor in _joined(tensors)}
    return {name: tensor.T.contiguous() if name in _TRANSPOSED else tensor for name, tensor in renamed.items()}


def _joined(tensors: Mapping[str, Tensor]) -> Iterator[tuple[str, Tensor]]:
    """Yield the tensors, those of queries, keys and values joined."""
    for name, tensor in tensors.items():
        if ".q_proj." in name:
            parts = [tensors[name.replace(".q_proj.", f".{letter}_proj.")] for letter in "qkv"]
            yield name.replace(".q_proj.", ".in_proj_"), torch.cat(parts)
        elif ".k_proj." not in name and ".v_proj." not in name:
            yield name, tensor


def _rename(name: str) -> str:
    for old, new in _RENAMED.items():
        name = name.replace(old, new)
    return name
