"""Recognizes a subject whose place is unknown: squares all over the picture are compared with all subjects.

A picture is taken to show the subject that any of its squares is most similar to.
"""

from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from labeling.sdd.schema import Box
from miniature.networks.judge import Embedder
from miniature.scoring.cases import Case
from miniature.training.embedder import crop
from miniature.training.pictures import SIDE_PX, pixels, shrink

SIDES = (0.35, 0.45, 0.55, 0.7)
"""Sides of the squares, as shares of the picture's."""
_STEP = 0.1
"""Distance of the squares, as a share of the picture's side."""


@torch.no_grad()
def recall_hits_anywhere(
    embedder: Embedder, looks: Mapping[str, Tensor], pictures: Sequence[NDArray[np.uint8]], asked: Sequence[Case]
) -> list[list[bool]]:
    """Return for each picture of one subject whether it shows the requested one.

    Args:
        embedder: network that embeds squares.
        looks: mean embedding of each subject, by name.
        pictures: square RGB images, one for each case.
        asked: cases of one subject.
    """
    names, vectors = list(looks), torch.stack(list(looks.values()))
    hits = []
    for picture, case in zip(pictures, asked, strict=True):
        small = shrink(picture)
        likeness = embedder(pixels([crop(small, square) for square in _squares()])) @ vectors.T
        shown = names[int(likeness.amax(dim=0).argmax())]
        hits.append([shown == case.subjects[0].sprite.name])
    return hits


def _squares() -> Iterator[Box]:
    for share in SIDES:
        side = share * SIDE_PX
        starts = np.linspace(0, SIDE_PX - side, 1 + round((1 - share) / _STEP))
        yield from (Box(x0=x, y0=y, x1=x + side, y1=y + side) for y in starts for x in starts)
