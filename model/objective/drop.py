"""Classifier-free dropout: which conditions an image of a training batch goes without.

The sampler's null branches are these very events, so that what it asks of the network has been trained.
"""

from dataclasses import dataclass
from itertools import accumulate, pairwise

import torch
from jaxtyping import Bool
from torch import Tensor

from model.config import DropConfig


@dataclass(frozen=True)
class DropMasks:
    """By image, what it goes without."""

    text: Bool[Tensor, " B"]
    """The prompt is the empty string, so CLS goes too."""
    image: Bool[Tensor, " B"]
    """No adapters, or null tokens (`ModelConfig.null_branches`), and a location mask of zeros."""
    layout: Bool[Tensor, " B"]
    """A location mask of zeros."""


def draw_drops(images: int, config: DropConfig, device: torch.device, generator: torch.Generator | None) -> DropMasks:
    """One event, or none, per image, with the probabilities of `config`."""
    chances = (config.text, config.image, config.layout, config.text_and_layout, config.all)
    u = torch.rand(images, generator=generator, device=device)
    # Compared with numbers, not with a tensor: that would have to be copied to the device, and be waited for.
    edges = pairwise((0.0, *accumulate(chances)))
    text, image, layout, text_and_layout, everything = ((low <= u) & (u < high) for low, high in edges)
    return DropMasks(
        text=text | text_and_layout | everything,
        image=image | everything,
        layout=layout | text_and_layout | everything,
    )
