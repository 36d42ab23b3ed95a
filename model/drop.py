"""Classifier-free dropout: which conditions an image of a training batch goes without.

The sampler's null branches are these very events, so that what it asks of the network has been trained.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Bool
from torch import Tensor

from model.config import DropConfig


@dataclass(frozen=True)
class Dropped:
    """By image, what it goes without."""

    text: Bool[Tensor, " B"]
    """The prompt is the empty string, so CLS goes too."""
    image: Bool[Tensor, " B"]
    """No adapters, or null tokens (`ModelConfig.null_branches`), and a location mask of zeros."""
    layout: Bool[Tensor, " B"]
    """A location mask of zeros."""


def drawn(images: int, config: DropConfig, device: torch.device, generator: torch.Generator | None) -> Dropped:
    """One event, or none, per image, with the probabilities of `config`."""
    edges = torch.tensor([config.text, config.image, config.layout, config.text_and_layout, config.all]).cumsum(0)
    event = torch.bucketize(torch.rand(images, generator=generator, device=device), edges.to(device), right=True)
    text, image, layout, text_and_layout, everything = (event == index for index in range(len(edges)))
    return Dropped(
        text=text | text_and_layout | everything,
        image=image | everything,
        layout=layout | text_and_layout | everything,
    )
