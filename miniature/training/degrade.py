"""Degrades pictures as a generator might: softer, noisier, in slightly different colours. Judges train on these."""

import torch
from torch import Tensor
from torch.nn import functional as F


def degrade(images: Tensor, noise: float = 0.12) -> Tensor:
    """Soften half of `images` [B, 3, H, W], and vary noise (up to `noise`), brightness and contrast of each."""
    count = len(images)
    soft = F.avg_pool2d(F.pad(images, (1, 1, 1, 1), mode="replicate"), 3, stride=1)
    softness = torch.rand(count, 1, 1, 1) * (torch.rand(count, 1, 1, 1) < 0.5)
    images = torch.lerp(images, soft, softness)
    images = images * (0.85 + 0.3 * torch.rand(count, 1, 1, 1)) + 0.15 * (2 * torch.rand(count, 3, 1, 1) - 1)
    return images + noise * torch.rand(count, 1, 1, 1) * torch.randn_like(images)
