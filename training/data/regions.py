"""Where the subjects of a crop are, in the two forms that the network takes: boxes l and masks M_k.

Axes: R subjects.
"""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float

from labeling.sdd.schema import Entity
from model.config import BoxEdges, ModelConfig
from training.data.config import DataConfig
from training.data.crop import box_shares, painted_box_shares
from training.data.masks import cell_shares, spans
from training.data.pictures import corners_of
from training.data.placement import Square


class SubjectRegions:
    """Boxes and masks of a row's entities in a crop of its image."""

    def __init__(self, data: DataConfig, model: ModelConfig) -> None:
        self._image_px = data.image_px
        self._cells = data.image_px // data.latent_downsampling
        self._box_edges = model.box_edges

    def boxes(self, entities: Sequence[Entity], square: Square) -> Float[np.ndarray, "R 4"]:
        """xyxy in [0, 1] of the crop."""
        corners = corners_of(entities)
        if self._box_edges is BoxEdges.PIXELS:
            return painted_box_shares(corners, square, self._image_px)
        return box_shares(corners, square)

    def masks(self, entities: Sequence[Entity], square: Square) -> Float[np.ndarray, "R _side _side"]:
        """How much of each position of the latent is the entity's.

        Raises:
            PoisonedRow: a mask is empty, or its run lengths are not those of its size.
        """
        return np.stack([cell_shares(spans(entity.mask), square, self._cells) for entity in entities])
