"""Classifier-free dropout: draws which conditions each image of a training batch is trained without.

The sampler's null branches (`model/sampling/guidance.py`) are the same events, so the network has been trained on them.
"""

from dataclasses import dataclass
from itertools import accumulate, pairwise

import torch
from jaxtyping import Bool
from torch import Tensor

from model.config import DropConfig


@dataclass(frozen=True)
class DropMasks:
    """Which conditions each image of a batch is trained without."""

    text: Bool[Tensor, " B"]
    """Images with an empty prompt, and so without CLS embedding."""
    image: Bool[Tensor, " B"]
    """Images with a zero location mask and adapters off or given null tokens (`ModelConfig.null_branches`)."""
    layout: Bool[Tensor, " B"]
    """Images with a zero location mask."""


def draw_drops(images: int, config: DropConfig, device: torch.device, generator: torch.Generator | None) -> DropMasks:
    """Draw at most one event per image, with the probabilities of `config`."""
    chances = (config.text, config.image, config.layout, config.text_and_layout, config.all)
    uniform = torch.rand(images, generator=generator, device=device)
    # The edges are Python numbers: a tensor would have to be copied to the device, which the host would wait for.
    edges = pairwise((0.0, *accumulate(chances)))
    text, image, layout, text_and_layout, everything = ((low <= uniform) & (uniform < high) for low, high in edges)
    return DropMasks(
        text=text | text_and_layout | everything,
        image=image | everything,
        layout=layout | text_and_layout | everything,
    )
