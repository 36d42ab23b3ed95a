"""Makes the pictures that the frozen networks see of a row: the crop to train on, and the subjects cut out of it.

Random draws follow from the seed, the epoch and the row's key alone.

Axes: R subjects.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, UInt8

from labeling.sdd.schema import Entity
from model.inputs.subject import SubjectPictures
from training.data.config import CutoutResampling, DataConfig
from training.data.crop import actual_reduction, choose_reduction, crop_square, decode_picture
from training.data.cutouts import Cutout, augment, cut_out, fill_mask_cavities, warp_to_square
from training.data.errors import PoisonedRow
from training.data.placement import Offsets, Square, crop_offsets, draw_square, draw_subjects
from training.data.rows import TrainingRow

_TOLERANCE_PX = 1.0
"""Pixels by which a box may exceed the image, because detectors round."""


class RowDraw(NamedTuple):
    """Random choices for a row, which do not need its image."""

    subjects: list[int]
    """Indices of the chosen entities, in ascending order."""
    square: Square
    """Crop, in pixels of the image."""
    reduction: int
    """Factor by which the decoder may reduce the image."""


class Pictures(NamedTuple):
    """The requested pictures of a row."""

    image: UInt8[np.ndarray, "_px _px 3"] | None
    subjects: UInt8[np.ndarray, "R _s _s 3"] | None


class PictureMaker:
    """Draws crops and makes the pictures of rows.

    Args:
        subjects: makes a subject's picture from its cut-out.
        seed: seed of the job.
    """

    def __init__(self, config: DataConfig, subjects: SubjectPictures, seed: int) -> None:
        self._config, self._subjects, self._seed = config, subjects, seed

    def draw(self, row: TrainingRow, epoch: int, count: int) -> RowDraw:
        """Draw `count` of the row's subjects and a crop that holds them.

        Raises:
            PoisonedRow: the row has no entity, or a box is not finite, empty or outside the image.
        """
        rng = self._rng(row, epoch)
        ranges = _valid_offsets(row)
        chosen = draw_subjects(ranges, count, rng)
        reduction = choose_reduction(row.width_px, row.height_px, self._config.image_px)
        held = Offsets(ranges.first[chosen], ranges.last[chosen])
        return RowDraw(chosen, draw_square(held, row.width_px, row.height_px, reduction, rng), reduction)

    def __call__(
        self, row: TrainingRow, epoch: int, draw: RowDraw, *, image: bool = True, subjects: bool = True
    ) -> Pictures:
        """Return the pictures of a draw.

        Raises:
            PoisonedRow: the image or a mask of the row cannot be used.
        """
        if not image and not subjects:
            return Pictures(None, None)
        assert row.image is not None, "pictures need rows that were read with their images"
        pixels = decode_picture(row.image, row.width_px, row.height_px, draw.reduction)
        reduction = actual_reduction(pixels, row.width_px, draw.reduction)
        return Pictures(
            image=crop_square(pixels, reduction, draw.square, self._config.image_px) if image else None,
            subjects=self._cut_out(pixels, reduction, row, epoch, draw.subjects) if subjects else None,
        )

    def _cut_out(
        self, pixels: UInt8[np.ndarray, "_h _w 3"], reduction: int, row: TrainingRow, epoch: int, chosen: Sequence[int]
    ) -> UInt8[np.ndarray, "R _s _s 3"]:
        pictures = []
        for index in chosen:
            cut = cut_out(pixels, reduction, row.entities[index].mask, self._subjects.side_px)
            if self._subjects.fill_cavities:
                cut = fill_mask_cavities(cut)
            pictures.append(self._picture(cut, self._rng(row, epoch, 1 + index)))
        return np.stack(pictures)

    def _picture(self, cut: Cutout, rng: np.random.Generator) -> UInt8[np.ndarray, "_s _s 3"]:
        subjects, augmentation = self._subjects, self._config.augmentation
        if augmentation.resampling is CutoutResampling.ONE_STEP:
            warped = warp_to_square(cut, augmentation, rng, subjects.side_px, pad=subjects.square)
            return subjects.on_background(warped, rng)
        cut = augment(cut, augmentation, rng)
        return subjects(cut.pixels, cut.mask, rng)

    def _rng(self, row: TrainingRow, epoch: int, *more: int) -> np.random.Generator:
        return np.random.default_rng([self._seed, epoch, int.from_bytes(row.key, "big"), *more])


def box_corners(entities: Sequence[Entity]) -> Float[np.ndarray, "R 4"]:
    """Return the entities' boxes as an array, xyxy in pixels of the image."""
    boxes = [(entity.box.x0, entity.box.y0, entity.box.x1, entity.box.y1) for entity in entities]
    return np.array(boxes, np.float32)


def _valid_offsets(row: TrainingRow) -> Offsets:
    """Check the row's boxes and return the offsets of the crops that hold each entity."""
    if not row.entities:
        raise PoisonedRow("no_subject", "the row has no entity")
    boxes = box_corners(row.entities)
    for entity, (x0, y0, x1, y1) in zip(row.entities, boxes, strict=True):
        if not np.isfinite((x0, y0, x1, y1)).all():
            raise PoisonedRow("box_not_finite", f"the box of {entity.label!r} is {entity.box}")
        over = max(-x0, -y0, x1 - row.width_px, y1 - row.height_px)
        if over > _TOLERANCE_PX or x0 >= x1 or y0 >= y1:
            size = f"{row.width_px}x{row.height_px}"
            raise PoisonedRow("box_outside", f"the box of {entity.label!r} is {entity.box}, in an image of {size}")
    return crop_offsets(boxes, np.array(row.width_px), np.array(row.height_px))
