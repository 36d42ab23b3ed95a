"""Vary how training marks the subjects' places: users give boxes, rough masks or nothing, and seldom exact masks.

A departure from the paper (`DeparturesConfig.location_shapes`). A network that saw exact masks alone paints a filled
box as a box-shaped tile. One that saw all of these shapes draws the subject's own outline inside a box.

Axes: B images, R reference subjects, H W rows and columns of the latent.
"""

from itertools import accumulate, pairwise

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from model.config import LocationShapes

_SIDES_PER_RADIUS = 16
"""Side of the latent by the radius of a dilation. Choice: 1 position of 16, 4 of 64."""


def vary_shapes(
    boxes: Float[Tensor, "B R 4"],
    regions: Float[Tensor, "B R H W"],
    filled_boxes: Float[Tensor, "B R H W"],
    shapes: LocationShapes,
    generator: torch.Generator | None,
) -> tuple[Float[Tensor, "B R 4"], Float[Tensor, "B R H W"]]:
    """Draw a shape for each subject, and return the subjects' boxes and regions.

    A subject that is not marked has no region, and the whole image as its box.

    Args:
        boxes: boxes, xyxy in [0, 1].
        regions: 1 inside each subject, 0 outside.
        filled_boxes: 1 inside each subject's box, 0 outside.
        shapes: probabilities.
        generator: source of the draws, on the device of the tensors.
    """
    uniform = torch.rand(boxes.shape[:2], generator=generator, device=boxes.device)
    edges = pairwise(accumulate((0.0, shapes.box, shapes.dilated, shapes.nothing)))
    box, dilated, nothing = (((low <= uniform) & (uniform < high))[..., None, None] for low, high in edges)
    regions = torch.where(box, filled_boxes, torch.where(dilated, _dilate(regions), regions))
    whole_image = (torch.arange(4, device=boxes.device) >= 2).to(boxes.dtype)  # xyxy, made on the device
    return torch.where(nothing[..., 0], whole_image, boxes), regions.masked_fill(nothing, 0.0)


def _dilate(regions: Float[Tensor, "B R H W"]) -> Float[Tensor, "B R H W"]:
    """Return the regions, larger by a share of the latent's side on all sides."""
    radius = max(1, regions.shape[-1] // _SIDES_PER_RADIUS)
    return F.max_pool2d(regions, kernel_size=2 * radius + 1, stride=1, padding=radius)
