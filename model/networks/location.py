"""Location control: the mask l_m of the subjects, concatenated to the latent (Sec. 3.3, "location-area control").

Axes: B images, R reference subjects, C latent channels, H W rows and columns of the latent.
"""

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn import functional as F

from model.config import LocationMarks


def concatenate_location_mask(
    noisy_latent: Float[Tensor, "B C H W"], location_mask: Float[Tensor, "B 1 H W"] | None
) -> Float[Tensor, "B _c H W"]:
    """Return the input of conv_in, z'_t = concat(z_t, l_m)."""
    assert location_mask is not None, "a network with location control needs the location mask"
    return torch.cat([noisy_latent, location_mask.to(noisy_latent.dtype)], dim=1)


def ignore_location_mask(
    noisy_latent: Float[Tensor, "B C H W"], location_mask: Float[Tensor, "B 1 H W"] | None
) -> Float[Tensor, "B C H W"]:
    """Return the input of conv_in without location control (Table 3 c): the latent alone."""
    return noisy_latent


def overlay_regions(
    regions: Float[Tensor, "B R _y _x"], present: Bool[Tensor, "B R"], size: tuple[int, int], marks: LocationMarks
) -> Float[Tensor, "B 1 H W"]:
    """Return l_m, the union of the subjects' regions at the latent's size; absent slots mark nothing.

    Args:
        regions: 1 inside each subject's mask or box, 0 outside, at any resolution; or the covered share, if pooled.
        present: slots that hold a subject.
        size: height and width of the latent.
        marks: region in which l_m is 1.

    Choice: l_m is binary, so a position belongs to a subject that covers at least half of it.
    """
    shares = F.interpolate(torch.where(present[..., None, None], regions, 0.0), size=size, mode="area")
    l_m = (shares >= 0.5).any(dim=1, keepdim=True).to(regions.dtype)
    return l_m if marks is LocationMarks.SUBJECT else 1.0 - l_m
