"""Location control: the mask l_m that says where subjects are, beside the latent (Sec. 3.3, "location-area control").

Axes: B images, R reference subjects, C latent channels, H W rows and columns of the latent.
"""

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn import functional as F

from model.config import BoxEdges, LocationMarks

_ROUNDING_PX = 1e-3


def with_location(
    noisy_latent: Float[Tensor, "B C H W"], location_mask: Float[Tensor, "B 1 H W"] | None
) -> Float[Tensor, "B _c H W"]:
    """z'_t = concat(z_t, l_m), what conv_in is given."""
    assert location_mask is not None, "a network with location control needs the location mask"
    return torch.cat([noisy_latent, location_mask.to(noisy_latent.dtype)], dim=1)


def without_location(
    noisy_latent: Float[Tensor, "B C H W"], location_mask: Float[Tensor, "B 1 H W"] | None
) -> Float[Tensor, "B C H W"]:
    """What conv_in is given without location control (Table 3 c)."""
    return noisy_latent


def overlaid(
    regions: Float[Tensor, "B R _y _x"], present: Bool[Tensor, "B R"], size: tuple[int, int], marks: LocationMarks
) -> Float[Tensor, "B 1 H W"]:
    """l_m: the subjects' regions over each other, at the latent's size. Absent slots mark nothing, whatever they hold.

    Args:
        regions: 1 inside each subject's mask or box, 0 outside, at any resolution; or shares, where they were pooled.
        size: H, W of the latent.

    Choice: l_m is binary, so a position counts as a subject's where at least half of it is.
    """
    shares = F.interpolate(torch.where(present[..., None, None], regions, 0.0), size=size, mode="area")
    l_m = (shares >= 0.5).any(dim=1, keepdim=True).to(regions.dtype)
    return l_m if marks is LocationMarks.SUBJECT else 1.0 - l_m


def filled_boxes(
    boxes: Float[Tensor, "B R 4"], size: tuple[int, int], edges: BoxEdges, cell_px: int
) -> Float[Tensor, "B R H W"]:
    """1 in the positions that the box holds, 0 elsewhere.

    Args:
        boxes: xyxy in [0, 1].
        cell_px: sides of a position, in pixels of the image.
    """
    return filled(boxes, size) if edges is BoxEdges.EXACT else painted(boxes, size, cell_px)


def filled(boxes: Float[Tensor, "B R 4"], size: tuple[int, int]) -> Float[Tensor, "B R H W"]:
    """1 in the positions whose centre lies in the box, 0 elsewhere.

    Args:
        boxes: xyxy in [0, 1].
    """
    height, width = size
    y = (torch.arange(height, device=boxes.device) + 0.5)[:, None] / height
    x = (torch.arange(width, device=boxes.device) + 0.5)[None, :] / width
    x0, y0, x1, y1 = (edge[..., None, None] for edge in boxes.unbind(dim=-1))
    return ((x >= x0) & (x < x1) & (y >= y0) & (y < y1)).to(boxes.dtype)


def painted(boxes: Float[Tensor, "B R 4"], size: tuple[int, int], cell_px: int) -> Float[Tensor, "B R H W"]:
    """1 in the positions whose first pixel lies from the box's first pixel to its last, 0 elsewhere.

    Args:
        boxes: xyxy in [0, 1].
        cell_px: sides of a position, in pixels of the image.
    """
    height, width = size
    y = torch.arange(height, device=boxes.device)[:, None] * cell_px
    x = torch.arange(width, device=boxes.device)[None, :] * cell_px
    x0, x1 = (_pixel(edge, width * cell_px) for edge in (boxes[..., 0], boxes[..., 2]))
    y0, y1 = (_pixel(edge, height * cell_px) for edge in (boxes[..., 1], boxes[..., 3]))
    return ((x >= x0) & (x <= x1) & (y >= y0) & (y <= y1)).to(boxes.dtype)


def _pixel(edge: Float[Tensor, "B R"], pixels: int) -> Float[Tensor, "B R 1 1"]:
    """The pixel that the edge lies in. Edges that are whole pixels stay so in spite of rounding."""
    return (edge * pixels + _ROUNDING_PX).floor()[..., None, None]
