"""OpenAI's CLIP as encoder of images and prompts, run by OpenCLIP.

    clip = load_clip(CLIP_VITB32, "weights/ViT-B-32.pt")             # file of openai/CLIP
    clip = load_clip(CLIP_VITB32, "weights/clip-vit-base-patch32")   # folder of transformers, or of OpenCLIP

Weights do not tell their activation: a file loads into a network with another one, and scores come out wrong by a few
hundredths. So files must declare it: by their format (openai/CLIP's own, which is QuickGELU's), or by the settings
beside them. Weights that declare nothing are refused.
"""

import logging
from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from evaluation.encoders.checkpoint import DTYPES, full_float32, locate, read_tensors, report_source, require
from evaluation.encoders.clip_files import HUB_PATTERNS, ClipWeights, read_clip
from evaluation.encoders.encoder import Image
from evaluation.encoders.preprocess import preprocess
from evaluation.errors import EncoderWeightsError
from evaluation.protocols import Activation, EncoderSpec
from model.openclip import open_clip
from model.weights.files import check_tensors

log = logging.getLogger(__name__)


class ClipEncoder:
    """Encoder of images and prompts."""

    def __init__(self, spec: EncoderSpec, network: "open_clip.CLIP", weights_hash: str, device: torch.device) -> None:
        self.spec = spec
        self.weights_hash = weights_hash
        self._device = device
        self._dtype = DTYPES[spec.dtype]
        self._network = network.to(device, self._dtype).eval().requires_grad_(False)
        self._tokenizer = open_clip.SimpleTokenizer(context_length=network.context_length)

    def prepare(self, image: Image) -> Float[Tensor, "3 crop crop"]:
        """Return the network's input for one image."""
        return preprocess(image, self.spec)

    def embed_images(self, inputs: Float[Tensor, "B 3 crop crop"]) -> Float[Tensor, "B D"]:
        """Return the projected class token of each image, in float32."""
        with torch.inference_mode(), full_float32():
            embeddings: Tensor = self._network.encode_image(inputs.to(self._device, self._dtype))
        return embeddings.float()

    def embed_prompts(self, prompts: Sequence[str]) -> Float[Tensor, "B D"]:
        """Return the projected end token of each prompt, in float32; warns of prompts that are cut."""
        if cut := self.cut_prompts(prompts):
            log.warning(
                "%s reads %d tokens, so it cuts %d of %d prompts, such as %r",
                self.spec.name, self._tokenizer.context_length, len(cut), len(prompts), cut[0],
            )  # fmt: skip
        with torch.inference_mode():
            embeddings: Tensor = self._network.encode_text(self._tokenizer(list(prompts)).to(self._device))
        return embeddings.float()

    def cut_prompts(self, prompts: Sequence[str]) -> list[str]:
        """Return the prompts that are longer than the network reads, 77 tokens with start and end."""
        limit = self._tokenizer.context_length - 2
        return [prompt for prompt in prompts if len(self._tokenizer.encode(prompt)) > limit]


def load_clip(spec: EncoderSpec, source: str, device: torch.device | str = "cpu") -> ClipEncoder:
    """Load a CLIP of OpenAI.

    Args:
        spec: the encoder.
        source: file of openai/CLIP (`ViT-B-32.pt`, or its state dict), folder of OpenCLIP (open_clip_config.json with
            open_clip_model.safetensors or open_clip_pytorch_model.bin) or a file in it, folder of transformers
            (config.json with model.safetensors or pytorch_model.bin), or a hub id.
        device: device of the network.

    Raises:
        EncoderWeightsError: the weights are missing, damaged, of another network or activation than the spec's, or
            do not declare their activation.
    """
    settings = clip_settings(spec)
    with report_source(spec, source):
        weights = read_clip(locate(spec, source, HUB_PATTERNS), read_tensors)
        require_activation(weights, spec)
        network = _build(settings, weights)
        return ClipEncoder(spec, network, weights.checkpoint.sha256(), torch.device(device))


def clip_settings(spec: EncoderSpec) -> dict[str, Any]:
    """Return OpenCLIP's settings of the spec's architecture.

    Raises:
        EncoderWeightsError: OpenCLIP knows no such architecture, or computes another activation or size than the spec.
    """
    settings: dict[str, Any] | None = open_clip.get_model_config(spec.architecture)
    if settings is None:
        raise EncoderWeightsError(
            f"{spec.name}: {spec.architecture!r} is no architecture of OpenCLIP: give one such as ViT-B-32-quickgelu"
        )
    found = {
        "activation": Activation.QUICK_GELU if settings.get("quick_gelu", False) else Activation.GELU,
        "embedding_size": settings["embed_dim"],
        "crop_px": settings["vision_cfg"]["image_size"],
    }
    for name, value in found.items():
        if value != getattr(spec, name):
            cure = "; OpenAI's weights need a name that ends in -quickgelu" * (name == "activation")
            raise EncoderWeightsError(
                f"{spec.name}: {name} is {getattr(spec, name)}, but OpenCLIP's {spec.architecture} has {value}: "
                f"correct the encoder's spec{cure}"
            )
    return settings


def require_activation(weights: ClipWeights, spec: EncoderSpec) -> None:
    """Check that the files declare the activation of the spec.

    Raises:
        EncoderWeightsError: they declare another one, or none.
    """
    if weights.activations is None:
        raise EncoderWeightsError(
            f"{weights.checkpoint.path} does not declare its activation, and {spec.name} needs {spec.activation}: put "
            f"the open_clip_config.json of its repository beside it, or give OpenAI's own file or {spec.weights}"
        )
    for name, activation in weights.activations.items():
        require(weights.declared_in, {name: activation}, {name: spec.activation.value}, spec)


def empty_clip(settings: dict[str, Any]) -> "open_clip.CLIP":
    """Build the network of OpenCLIP's settings on the meta device."""
    with torch.device("meta"):
        return open_clip.CLIP(**settings)


def _build(settings: dict[str, Any], weights: ClipWeights) -> "open_clip.CLIP":
    """Build the network with the tensors.

    Raises:
        ModelWeightsError: a tensor is missing, unexpected, of another shape or not finite.
    """
    network = empty_clip(settings)
    check_tensors(weights.checkpoint.path, weights.tensors, network.state_dict())
    network.load_state_dict({name: tensor.float() for name, tensor in weights.tensors.items()}, assign=True)
    network.attn_mask = causal_mask(network.context_length)  # a buffer that no file holds
    return network


def causal_mask(length: int) -> Float[Tensor, "T T"]:
    """Return the mask that keeps tokens from seeing later ones: 0, and minus infinity above the diagonal."""
    return torch.full((length, length), -torch.inf).triu(1)
