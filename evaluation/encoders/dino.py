"""DINO and DINOv2 as image encoders: the CLS token after the last layer norm.

    dino = load_dino(DINO_VITS16, "weights/dino-vits16")                    # folder of transformers
    dino = load_dino(DINO_VITS16, "weights/dino_deitsmall16_pretrain.pth")  # file of facebookresearch/dino

The pooler of transformers' classes is never built: it has no weights of DINO, and its output would be noise.

DINOv2 sees 224 pixels with positions trained at 518. transformers interpolates them to a size; facebookresearch/dinov2
interpolates by a factor with an offset of 0.1, so its embeddings differ slightly. Both kinds of files are run as
transformers does, since DreamBench++ takes its `facebook/dinov2-small`.
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from transformers import Dinov2Config, Dinov2Model, PretrainedConfig, PreTrainedModel, ViTConfig, ViTModel

from evaluation.encoders.checkpoint import (
    DTYPES,
    HF_NAMES,
    Checkpoint,
    Reader,
    find_file,
    floats,
    full_float32,
    locate,
    read_tensors,
    report_source,
    require,
)
from evaluation.encoders.encoder import Image
from evaluation.encoders.original_dino import to_transformers
from evaluation.encoders.preprocess import preprocess
from evaluation.errors import EncoderWeightsError
from evaluation.protocols import EncoderSpec
from model.weights.files import check_numbers, read_json

HF_PATTERNS = ("config.json", *HF_NAMES)
_NAME = re.compile(r"(dino|dinov2)_vit([tsbl])(\d+)")
_SIZES = {"t": (192, 12, 3), "s": (384, 12, 6), "b": (768, 12, 12), "l": (1024, 24, 16)}
"""Width, layers and heads by the letter in an architecture's name (facebookresearch/dino@7c446df vision_transformer.py,
facebookresearch/dinov2 models/vision_transformer.py)."""
_POOLER = "pooler."


@dataclass(frozen=True, slots=True)
class DinoArchitecture:
    """A vision transformer of DINO or DINOv2."""

    model_type: str
    """Type in transformers' config.json: "vit" or "dinov2"."""
    width: int
    layers: int
    heads: int
    patch_px: int
    """Side of a patch, in pixels."""

    def settings(self, spec: EncoderSpec) -> dict[str, Any]:
        """Return the settings that transformers' config.json must have."""
        size = {"image_size": spec.crop_px} if self.model_type == "vit" else {}
        return {
            "model_type": self.model_type,
            "hidden_size": self.width,
            "num_hidden_layers": self.layers,
            "num_attention_heads": self.heads,
            "patch_size": self.patch_px,
            "hidden_act": spec.activation.value,
            **size,
        }


@dataclass(frozen=True, slots=True)
class DinoWeights:
    """Weights of a DINO."""

    checkpoint: Checkpoint
    """The file, with its own names."""
    tensors: Mapping[str, Tensor]
    """Tensors by transformers' names, without a pooler."""
    config: PretrainedConfig
    """Settings of the network."""


class DinoEncoder:
    """Image encoder that returns the CLS token."""

    def __init__(self, spec: EncoderSpec, network: PreTrainedModel, weights_hash: str, device: torch.device) -> None:
        self.spec = spec
        self.weights_hash = weights_hash
        self._device = device
        self._dtype = DTYPES[spec.dtype]
        self._network = network.to(device, self._dtype).eval().requires_grad_(False)

    def prepare(self, image: Image) -> Float[Tensor, "3 crop crop"]:
        """Return the network's input for one image."""
        return preprocess(image, self.spec)

    def embed_images(self, inputs: Float[Tensor, "B 3 crop crop"]) -> Float[Tensor, "B D"]:
        """Return the CLS token of each image, in float32."""
        with torch.inference_mode(), full_float32():
            out = self._network(pixel_values=inputs.to(self._device, self._dtype))
        cls: Tensor = out.last_hidden_state[:, 0]
        return cls.float()


def dino_architecture(spec: EncoderSpec) -> DinoArchitecture:
    """Return the architecture that a spec names as torch.hub does, such as `dino_vits16` or `dinov2_vits14`.

    Raises:
        EncoderWeightsError: the name is none of DINO's, or its width is not the spec's size of embeddings.
    """
    name = _NAME.fullmatch(spec.architecture)
    if name is None:
        raise EncoderWeightsError(
            f"{spec.name}: {spec.architecture!r} is no architecture of DINO: give one such as dino_vits16"
        )
    width, layers, heads = _SIZES[name[2]]
    if width != spec.embedding_size:
        raise EncoderWeightsError(
            f"{spec.name}: embedding_size is {spec.embedding_size}, but {spec.architecture} is {width} wide: correct "
            f"the encoder's spec"
        )
    return DinoArchitecture("vit" if name[1] == "dino" else "dinov2", width, layers, heads, int(name[3]))


def load_dino(spec: EncoderSpec, source: str, device: torch.device | str = "cpu") -> DinoEncoder:
    """Load DINO or DINOv2.

    Args:
        spec: the encoder.
        source: folder of transformers (config.json with model.safetensors or pytorch_model.bin), a file of the authors
            (`dino_deitsmall16_pretrain.pth`, `dinov2_vits14_pretrain.pth`), or a hub id.
        device: device of the network.

    Raises:
        EncoderWeightsError: the weights are missing, damaged, or those of another network than the spec's.
    """
    architecture = dino_architecture(spec)
    with report_source(spec, source):
        weights = read_dino(locate(spec, source, HF_PATTERNS), architecture, spec, read_tensors)
        check_numbers(weights.checkpoint.path, weights.checkpoint.tensors, "copy or download it again")
        return DinoEncoder(spec, _build(weights, spec), weights.checkpoint.sha256(), torch.device(device))


def read_dino(path: Path, architecture: DinoArchitecture, spec: EncoderSpec, read: Reader) -> DinoWeights:
    """Read a folder of transformers or a file of the authors.

    Raises:
        EncoderWeightsError: settings or shapes are those of another architecture than the spec's.
    """
    if path.is_dir():
        config = _folder_config(path, architecture, spec)
        file = find_file(path, HF_NAMES)
        checkpoint = Checkpoint(file, floats(read(file)))
        tensors = {name: one for name, one in checkpoint.tensors.items() if not name.startswith(_POOLER)}
        return DinoWeights(checkpoint, tensors, config)
    checkpoint = Checkpoint(path, floats(read(path)))
    config = _original_config(checkpoint, architecture, spec)
    return DinoWeights(checkpoint, to_transformers(checkpoint.tensors, architecture.model_type), config)


def _folder_config(folder: Path, architecture: DinoArchitecture, spec: EncoderSpec) -> PretrainedConfig:
    path = find_file(folder, ["config.json"])
    settings = read_json(path)
    require(path, settings, {"model_type": architecture.model_type}, spec)
    config = CLASSES[architecture.model_type][0].from_dict(settings)
    require(path, config.to_dict(), architecture.settings(spec), spec)
    return config


def _original_config(checkpoint: Checkpoint, architecture: DinoArchitecture, spec: EncoderSpec) -> PretrainedConfig:
    """Return transformers' settings for a file of the authors, of which only the number of heads cannot be seen.

    Raises:
        EncoderWeightsError: the file holds another architecture.
    """
    found = dict(_original_properties(checkpoint, architecture.model_type))
    expected = {"width": architecture.width, "layers": architecture.layers, "patch size": architecture.patch_px}
    if architecture.model_type == "vit":
        expected["image size"] = spec.crop_px
    require(checkpoint.path, found, expected, spec)
    settings = architecture.settings(spec) | {"image_size": found["image size"], "layer_norm_eps": 1e-6}
    del settings["model_type"]
    if architecture.model_type == "vit":
        return ViTConfig(intermediate_size=4 * architecture.width, **settings)
    return Dinov2Config(**settings)


def _original_properties(checkpoint: Checkpoint, model_type: str) -> Iterator[tuple[str, int]]:
    """Yield width, number of layers, patch size and training image size, as the shapes of tensors tell them."""
    tensors, marks = checkpoint.tensors, ["patch_embed.proj.weight", "pos_embed"]
    if model_type == "dinov2":
        marks.append("blocks.0.ls1.gamma")
    if missing := [name for name in marks if name not in tensors]:
        raise EncoderWeightsError(
            f"{checkpoint.path} has no tensor {missing[0]}, so it is no file of "
            f"{'facebookresearch/dinov2' if model_type == 'dinov2' else 'facebookresearch/dino'}: give the backbone "
            f"that its README links to, or a folder of transformers"
        )
    patch_px = tensors["patch_embed.proj.weight"].shape[-1]
    yield "width", tensors["patch_embed.proj.weight"].shape[0]
    yield "layers", len({name.split(".")[1] for name in tensors if name.startswith("blocks.")})
    yield "patch size", patch_px
    yield "image size", round((tensors["pos_embed"].shape[1] - 1) ** 0.5) * patch_px


def _build(weights: DinoWeights, spec: EncoderSpec) -> PreTrainedModel:
    """Build the network with the tensors, which may have the names of any version of transformers.

    Raises:
        EncoderWeightsError: a tensor is missing, unexpected or of another shape.
    """
    _, network, arguments = CLASSES[weights.config.model_type]
    net, report = network.from_pretrained(
        None,
        config=weights.config,
        state_dict=dict(weights.tensors),
        dtype=torch.float32,
        output_loading_info=True,
        ignore_mismatched_sizes=True,  # reported by name
        **arguments,
    )
    shapes = [name for name, *_ in report["mismatched_keys"]]
    if wrong := sorted([*report["missing_keys"], *report["unexpected_keys"], *shapes]):
        raise EncoderWeightsError(
            f"{weights.checkpoint.path}: {len(wrong)} tensors are missing, unexpected or of another shape than those "
            f"of {spec.name}, such as {wrong[0]}: give the weights of {spec.weights}"
        )
    return net


CLASSES: Mapping[str, tuple[Any, Any, Mapping[str, bool]]] = {
    "vit": (ViTConfig, ViTModel, {"add_pooling_layer": False}),
    "dinov2": (Dinov2Config, Dinov2Model, {}),
}
"""Class of settings, class of the network, and its further arguments, by type in config.json."""
