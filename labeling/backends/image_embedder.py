"""Embeddings of images by DINOv2 or the image encoder of CLIP, from checkpoint folders of transformers."""

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import normalize
from transformers import (
    AutoConfig,
    AutoImageProcessor,
    BaseImageProcessor,
    CLIPVisionModelWithProjection,
    Dinov2Model,
    PreTrainedModel,
)

from labeling.backends.pixel_values import prepare_pixels
from labeling.backends.runtime import pretrained_source, refuse_incomplete, torch_device, torch_dtype
from labeling.config import EmbedConfig
from labeling.errors import BackendWeightsError

SETTING = "labeling.embed.checkpoint"
NETWORKS: dict[str, type[PreTrainedModel]] = {
    "dinov2": Dinov2Model,
    "clip": CLIPVisionModelWithProjection,
    "clip_vision_model": CLIPVisionModelWithProjection,
}
"""Class of the network of each type in config.json."""


class TransformersEmbedder:
    """Embedder by the class token of DINOv2, or by the projected embedding of CLIP."""

    def __init__(self, config: EmbedConfig) -> None:
        """Load the weights.

        Raises:
            BackendWeightsError: the checkpoint does not load, is of another type, or lacks weights.
        """
        self._device = torch_device(config.device)
        net, self._processor = _load(config)
        self._net = net.eval().to(self._device)

    def prepare(self, image: NDArray[np.uint8]) -> Tensor:
        """Resize, crop and normalise an upright RGB image [H, W, 3] to [3, size, size]."""
        return prepare_pixels(self._processor, image)

    @torch.inference_mode()
    def embed(self, prepared: Sequence[Tensor]) -> NDArray[np.float32]:
        """Return the embedding of each prepared image, [n, D], of length 1."""
        pixels = torch.stack(list(prepared)).to(self._device, self._net.dtype)
        output = self._net(pixels)
        embeddings = output.image_embeds if "image_embeds" in output else output.pooler_output
        array: NDArray[np.float32] = normalize(embeddings.float(), dim=-1).cpu().numpy()
        return array


def _load(config: EmbedConfig) -> tuple[PreTrainedModel, BaseImageProcessor]:
    name, revision = config.checkpoint, config.revision
    with pretrained_source(name, SETTING) as source:
        kind = AutoConfig.from_pretrained(source, revision=revision).model_type
        if kind not in NETWORKS:
            raise BackendWeightsError(
                f"{SETTING}={name!r} holds a network of type {kind!r}; embeddings are made by {', '.join(NETWORKS)}"
            )
        processor = AutoImageProcessor.from_pretrained(source, revision=revision)
        net, report = NETWORKS[kind].from_pretrained(
            source,
            revision=revision,
            dtype=torch_dtype(config.precision),
            output_loading_info=True,
            ignore_mismatched_sizes=True,  # reported below, by name
        )
    refuse_incomplete(report, name, SETTING, NETWORKS[kind].__name__)
    return net, processor
