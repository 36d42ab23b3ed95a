"""Degrades pictures as a generator might: softer, noisier, in slightly different colours. Judges train on these."""

import torch
from torch import Tensor
from torch.nn import functional as F


def degrade(images: Tensor, noise: float = 0.12) -> Tensor:
    """Soften half of `images` [B, 3, H, W], and vary noise (up to `noise`), brightness and contrast of each.

    Draws come from the random state of the CPU on every device.
    """
    count = len(images)
    soft = F.avg_pool2d(F.pad(images, (1, 1, 1, 1), mode="replicate"), 3, stride=1)
    softness = torch.rand(count, 1, 1, 1) * (torch.rand(count, 1, 1, 1) < 0.5)
    images = torch.lerp(images, soft, softness.to(images.device))
    contrast, colour = 0.85 + 0.3 * torch.rand(count, 1, 1, 1), 0.15 * (2 * torch.rand(count, 3, 1, 1) - 1)
    images = images * contrast.to(images.device) + colour.to(images.device)
    grain = noise * torch.rand(count, 1, 1, 1) * torch.randn_like(images, device="cpu")
    return images + grain.to(images.device)
