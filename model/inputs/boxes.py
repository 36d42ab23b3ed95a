"""Boxes as masks over the positions of the latent.

Axes: B images, R reference subjects, H W rows and columns of the latent.
"""

import torch
from jaxtyping import Float
from torch import Tensor

from model.config import BoxEdges

_ROUNDING_PX = 1e-3
"""Tolerance in pixels, so that an edge just below a pixel's border, through rounding, counts as on the border."""


def box_masks(
    boxes: Float[Tensor, "B R 4"], size: tuple[int, int], edges: BoxEdges, cell_px: int
) -> Float[Tensor, "B R H W"]:
    """Return masks that are 1 in the positions of the latent that each box covers, 0 elsewhere.

    Args:
        boxes: xyxy in [0, 1].
        size: rows and columns of the latent.
        edges: how the edges of a box are placed.
        cell_px: side of a position, in pixels of the image.
    """
    return exact_box_masks(boxes, size) if edges is BoxEdges.EXACT else painted_box_masks(boxes, size, cell_px)


def exact_box_masks(boxes: Float[Tensor, "B R 4"], size: tuple[int, int]) -> Float[Tensor, "B R H W"]:
    """Return masks that are 1 in the positions whose centre lies in the box, 0 elsewhere.

    Args:
        boxes: xyxy in [0, 1].
    """
    height, width = size
    y = (torch.arange(height, device=boxes.device) + 0.5)[:, None] / height
    x = (torch.arange(width, device=boxes.device) + 0.5)[None, :] / width
    x0, y0, x1, y1 = (edge[..., None, None] for edge in boxes.unbind(dim=-1))
    return ((x >= x0) & (x < x1) & (y >= y0) & (y < y1)).to(boxes.dtype)


def painted_box_masks(boxes: Float[Tensor, "B R 4"], size: tuple[int, int], cell_px: int) -> Float[Tensor, "B R H W"]:
    """Return masks that are 1 in the positions whose first pixel lies between the box's first and last pixel.

    Args:
        boxes: xyxy in [0, 1].
        cell_px: side of a position, in pixels of the image.
    """
    height, width = size
    y = torch.arange(height, device=boxes.device)[:, None] * cell_px
    x = torch.arange(width, device=boxes.device)[None, :] * cell_px
    x0, x1 = (_pixel(edge, width * cell_px) for edge in (boxes[..., 0], boxes[..., 2]))
    y0, y1 = (_pixel(edge, height * cell_px) for edge in (boxes[..., 1], boxes[..., 3]))
    return ((x >= x0) & (x <= x1) & (y >= y0) & (y <= y1)).to(boxes.dtype)


def _pixel(edge: Float[Tensor, "B R"], pixels: int) -> Float[Tensor, "B R 1 1"]:
    """Return the index of the pixel that contains the edge."""
    return (edge * pixels + _ROUNDING_PX).floor()[..., None, None]
