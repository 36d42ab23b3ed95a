"""Assigns boxes to cells of the detector's grid, and computes the losses of boxes and tokens.

Boxes are (cx, cy, w, h) in shares of the image. The grid consists of the backbone's last two stages, 12 x 12 and 6 x 6
for 192 px, row by row.
"""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F
from torchvision.ops import box_convert, generalized_box_iou_loss

SIDES = (12, 6)
NO_OWNER, IGNORED = -1, -2
_CORE = 0.25
"""Half the side of a box's core, whose cells are assigned to the box, as a share of the box's side."""
_WIDTH = 0.11
"""Standard deviation of the region around a box's centre with reduced loss, as a share of the box's side."""
_COARSE = 0.34
"""Longer side, as a share of the image, from which on a box has its peak on the coarse grid."""


def cell_centres() -> Tensor:
    """Return the centres of all cells, [180, 2]."""
    grids = []
    for side in SIDES:
        along = (torch.arange(side) + 0.5) / side
        y, x = torch.meshgrid(along, along, indexing="ij")
        grids.append(torch.stack([x, y], dim=-1).reshape(-1, 2))
    return torch.cat(grids)


def priors() -> Tensor:
    """Return the initial box of each cell, [180, 4], as in Grounding DINO's proposals: 0.05 wide, then 0.1."""
    sizes = [torch.full((side * side, 2), 0.05 * 2**level) for level, side in enumerate(SIDES)]
    return torch.cat([cell_centres(), torch.cat(sizes)], dim=1)


def cell_owners(boxes: Tensor) -> Tensor:
    """Return for each cell the index of the box that it belongs to, `NO_OWNER`, or `IGNORED` at a box's rim; [180].

    A box owns the cells of its core and the fine cell nearest to its centre; smaller boxes take precedence.
    """
    cells = cell_centres()
    owner = torch.full((len(cells),), NO_OWNER)
    for index in (boxes[:, 2] * boxes[:, 3]).argsort(descending=True).tolist():
        away = (cells - boxes[index, :2]).abs() / boxes[index, 2:]
        owner[(away < 0.5).all(dim=1) & (owner == NO_OWNER)] = IGNORED
        owner[(away < _CORE).all(dim=1)] = index
        owner[_nearest(boxes[index], 0, SIDES[0] ** 2)] = index
    return owner


@dataclass(frozen=True, slots=True)
class Peaks:
    """Peak cells of boxes, as in CenterNet, and the nearness of the other cells."""

    cells: Tensor
    """Index of each box's cell, [n]."""
    nearness: Tensor
    """Nearness of each cell to each box's centre, [n, 180]; 1 at the centre."""


def peaks(boxes: Tensor) -> Peaks:
    """Return the peak of each box; those of large boxes are on the coarse grid."""
    fine, coarse = SIDES[0] ** 2, sum(side**2 for side in SIDES)
    spans = [(fine, coarse) if float(box[2:].max()) >= _COARSE else (0, fine) for box in boxes]
    cells = [_nearest(box, *span) for box, span in zip(boxes, spans, strict=True)]
    away = (cell_centres()[None] - boxes[:, None, :2]) / boxes[:, None, 2:]
    return Peaks(torch.tensor(cells, dtype=torch.long), torch.exp(-0.5 * away.square().sum(-1) / _WIDTH**2))


def _nearest(box: Tensor, start: int, stop: int) -> int:
    return start + int((cell_centres()[start:stop] - box[:2]).square().sum(dim=1).argmin())


def focal(logits: Tensor, targets: Tensor) -> Tensor:
    """Return the focal loss of each logit, with alpha .25 and gamma 2."""
    shares = logits.sigmoid()
    right = shares * targets + (1 - shares) * (1 - targets)
    weight = 0.25 * targets + 0.75 * (1 - targets)
    return weight * (1 - right).square() * F.binary_cross_entropy_with_logits(logits, targets, reduction="none")


def corners(boxes: Tensor) -> Tensor:
    """Return boxes [..., 4] as (x0, y0, x1, y1)."""
    xyxy: Tensor = box_convert(boxes, "cxcywh", "xyxy")
    return xyxy


def box_terms(predicted: Tensor, true: Tensor) -> tuple[Tensor, Tensor]:
    """Return the mean L1 distance and the mean generalised IoU loss of pairs of boxes [n, 4]."""
    distance = (predicted - true).abs().sum() / max(1, len(true))
    overlap: Tensor = generalized_box_iou_loss(corners(predicted), corners(true), reduction="sum") / max(1, len(true))
    return distance, overlap
