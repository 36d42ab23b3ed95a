"""Computes the regions of a crop's subjects in the two forms that the network takes: boxes l and masks M_k.

Axes: R subjects.
"""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float
from numpy.typing import NDArray

from labeling.sdd.schema import Entity
from model.config import BoxEdges, MaskResize, ModelConfig
from model.inputs.cavities import fill_cavities
from training.data.config import DataConfig
from training.data.crop import crop_boxes, crop_pixel_boxes
from training.data.masks import cell_shares, pixel_mask, spans
from training.data.pictures import box_corners
from training.data.placement import Square


class SubjectRegions:
    """Computes boxes and masks of a row's entities in a crop of its image."""

    def __init__(self, data: DataConfig, model: ModelConfig) -> None:
        self._image_px = data.image_px
        self._cells = data.image_px // data.latent_downsampling
        self._box_edges = model.box_edges
        self._mask_of = self._pixels if model.attention_mask_resize is MaskResize.BILINEAR else self._shares
        self._fill_cavities = model.subject.fill_cavities

    def boxes(self, entities: Sequence[Entity], square: Square) -> Float[np.ndarray, "R 4"]:
        """Return the entities' boxes, xyxy in [0, 1] of the crop."""
        corners = box_corners(entities)
        if self._box_edges is BoxEdges.PIXELS:
            return crop_pixel_boxes(corners, square, self._image_px)
        return crop_boxes(corners, square)

    def masks(self, entities: Sequence[Entity], square: Square) -> Float[np.ndarray, "R _side _side"]:
        """Return the share of each position of the latent that each entity covers.

        Where Eq. 2 resizes from pixels, the masks are of pixels instead.

        Raises:
            PoisonedRow: a mask is empty, or its run lengths do not add up to its size.
        """
        return np.stack([self._mask_of(entity, square) for entity in entities])

    def _shares(self, entity: Entity, square: Square) -> NDArray[np.float32]:
        return cell_shares(spans(entity.mask), square, self._cells)

    def _pixels(self, entity: Entity, square: Square) -> NDArray[np.float32]:
        mask = pixel_mask(entity.mask, square, self._image_px)
        return (fill_cavities(mask) if self._fill_cavities else mask).astype(np.float32)
