"""Interfaces of the networks that an evaluation needs; `flows` passes them in."""

from collections.abc import Sequence
from typing import Protocol

import numpy as np
from jaxtyping import Float, Float32, UInt8
from torch import Tensor

from evaluation.protocols import EncoderSpec

Image = UInt8[np.ndarray, "h w 3"]
"""An image, RGB, after its EXIF orientation."""
Embedding = Float32[np.ndarray, "D"]
"""Embedding of an image or a prompt, of any length (not normalised)."""


class ImageEncoder(Protocol):
    """Embeds images."""

    spec: EncoderSpec
    """Network and preprocessing."""
    weights_hash: str
    """SHA-256 of the weights, for stamps and cache keys."""

    def prepare(self, image: Image) -> Float[Tensor, "3 crop crop"]:
        """Return the network's input for one image; CPU work that runs ahead in threads."""

    def embed_images(self, inputs: Float[Tensor, "B 3 crop crop"]) -> Float[Tensor, "B D"]:
        """Return one embedding for each prepared image, of any length (not normalised)."""


class TextEncoder(Protocol):
    """Embeds prompts in the space of an image encoder."""

    spec: EncoderSpec
    """Network that embeds the images in the same space."""
    weights_hash: str
    """SHA-256 of the weights."""

    def embed_prompts(self, prompts: Sequence[str]) -> Float[Tensor, "B D"]:
        """Return one embedding for each prompt, of any length (not normalised)."""

    def cut_prompts(self, prompts: Sequence[str]) -> list[str]:
        """Return the prompts that are longer than the network reads."""
