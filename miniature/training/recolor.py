"""Draws new colours for pictures, so that a network that trains on them has to recognise subjects by their shape."""

import math

import torch
from jaxtyping import Float
from torch import Tensor

from infra.config import Config
from infra.ranges import Factor, Share

_TO_YIQ = torch.tensor([[0.299, 0.587, 0.114], [0.5959, -0.2746, -0.3213], [0.2115, -0.5227, 0.3112]])
"""Matrix from RGB to lightness and two axes of chroma (FCC's NTSC standard of 1953)."""
_TO_RGB = torch.linalg.inv(_TO_YIQ)


class RecolorConfig(Config):
    """Ranges of the drawn colours. Pairs are the smallest and the largest value of a draw."""

    contrast: tuple[Factor, Factor] = (0.4, 1.2)
    """Factor of the differences in lightness."""
    saturation: tuple[Factor, Factor] = (0.0, 1.5)
    """Factor of chroma; 0 is grey."""
    brightness: Share = 0.5
    """Largest distance of a picture's mean lightness from middle grey, where black and white have distance 1."""


def recolor(images: Float[Tensor, "B 3 H W"], config: RecolorConfig) -> Float[Tensor, "B 3 H W"]:
    """Draw hue, saturation, contrast and mean lightness for each image, with pixels in [-1, 1].

    All hues of an image turn by the same angle, and lighter pixels stay lighter than darker ones. Draws come from the
    random state of the CPU on every device.
    """
    count = len(images)
    matrices = (_TO_RGB @ _yiq_maps(count, config) @ _TO_YIQ).to(images.device)
    mapped = torch.einsum("bij,bjhw->bihw", matrices, images)
    lightness = torch.einsum("c,bchw->bhw", _TO_YIQ[0].to(images.device), mapped).mean((1, 2))
    wanted = config.brightness * (2 * torch.rand(count) - 1)
    return (mapped + (wanted.to(images.device) - lightness)[:, None, None, None]).clamp(-1, 1)


def _yiq_maps(count: int, config: RecolorConfig) -> Float[Tensor, "B 3 3"]:
    """Draw matrices that scale lightness, and scale and rotate chroma."""
    angle = 2 * math.pi * torch.rand(count)
    contrast, saturation = _uniform(count, config.contrast), _uniform(count, config.saturation)
    maps = torch.zeros(count, 3, 3)
    maps[:, 0, 0] = contrast
    maps[:, 1, 1] = maps[:, 2, 2] = saturation * angle.cos()
    maps[:, 1, 2] = -saturation * angle.sin()
    maps[:, 2, 1] = saturation * angle.sin()
    return maps


def _uniform(count: int, ends: tuple[float, float]) -> Tensor:
    low, high = ends
    return low + (high - low) * torch.rand(count)
