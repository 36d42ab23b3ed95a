"""Boxes on the detector's grid: which of its cells answer for a box, and the losses of boxes and tokens.

Boxes are (cx, cy, w, h) in shares of the image. The grid is that of the backbone's last two stages, at 12 x 12 and
6 x 6 for 192 px, one row after another.
"""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F
from torchvision.ops import box_convert, generalized_box_iou_loss

SIDES = (12, 6)
NOBODY, IGNORED = -1, -2
_CORE = 0.25
"""Half of the middle part of a box, in shares of it, whose cells answer for it."""
_WIDTH = 0.11
"""Standard deviation, in shares of the box, of how far cells about its centre are let off."""
_COARSE = 0.34
"""Longer side from which the coarse grid has the peak."""


def centres() -> Tensor:
    """The centres of all cells, [180, 2]."""
    grids = []
    for side in SIDES:
        along = (torch.arange(side) + 0.5) / side
        y, x = torch.meshgrid(along, along, indexing="ij")
        grids.append(torch.stack([x, y], dim=-1).reshape(-1, 2))
    return torch.cat(grids)


def priors() -> Tensor:
    """The box that each cell starts from, [180, 4], as Grounding DINO makes its proposals: 0.05 wide, then 0.1."""
    sizes = [torch.full((side * side, 2), 0.05 * 2**level) for level, side in enumerate(SIDES)]
    return torch.cat([centres(), torch.cat(sizes)], dim=1)


def owners(boxes: Tensor) -> Tensor:
    """For each cell the index of the box that it answers for, `NOBODY`, or `IGNORED` at a box's rim; [180].

    The cells of a box's middle answer for it, and the fine cell nearest to its centre; smaller boxes go first.
    """
    cells = centres()
    owner = torch.full((len(cells),), NOBODY)
    for index in (boxes[:, 2] * boxes[:, 3]).argsort(descending=True).tolist():
        away = (cells - boxes[index, :2]).abs() / boxes[index, 2:]
        owner[(away < 0.5).all(dim=1) & (owner == NOBODY)] = IGNORED
        owner[(away < _CORE).all(dim=1)] = index
        owner[_nearest(boxes[index], 0, SIDES[0] ** 2)] = index
    return owner


@dataclass(frozen=True, slots=True)
class Peaks:
    """One cell for each box, as in CenterNet, and how near the others are to its centre."""

    cells: Tensor
    """[n]."""
    nearness: Tensor
    """[n, 180], 1 at the centre."""


def peaks(boxes: Tensor) -> Peaks:
    """The peak of each of `boxes`: on the coarse grid for the large ones."""
    fine, coarse = SIDES[0] ** 2, sum(side**2 for side in SIDES)
    spans = [(fine, coarse) if float(box[2:].max()) >= _COARSE else (0, fine) for box in boxes]
    cells = [_nearest(box, *span) for box, span in zip(boxes, spans, strict=True)]
    away = (centres()[None] - boxes[:, None, :2]) / boxes[:, None, 2:]
    return Peaks(torch.tensor(cells, dtype=torch.long), torch.exp(-0.5 * away.square().sum(-1) / _WIDTH**2))


def _nearest(box: Tensor, start: int, stop: int) -> int:
    return start + int((centres()[start:stop] - box[:2]).square().sum(dim=1).argmin())


def focal(logits: Tensor, targets: Tensor) -> Tensor:
    """The focal loss of each logit, alpha .25 and gamma 2."""
    shares = logits.sigmoid()
    right = shares * targets + (1 - shares) * (1 - targets)
    weight = 0.25 * targets + 0.75 * (1 - targets)
    return weight * (1 - right).square() * F.binary_cross_entropy_with_logits(logits, targets, reduction="none")


def corners(boxes: Tensor) -> Tensor:
    """(x0, y0, x1, y1) of boxes [..., 4]."""
    xyxy: Tensor = box_convert(boxes, "cxcywh", "xyxy")
    return xyxy


def box_terms(found: Tensor, true: Tensor) -> tuple[Tensor, Tensor]:
    """Mean L1 distance, summed over the four numbers, and mean generalised IoU loss of pairs of boxes [n, 4]."""
    distance = (found - true).abs().sum() / max(1, len(true))
    overlap: Tensor = generalized_box_iou_loss(corners(found), corners(true), reduction="sum") / max(1, len(true))
    return distance, overlap
