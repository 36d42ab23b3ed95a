"""The pictures of a row that the frozen networks see: the crop to train on, and the subjects cut out of the image.

What is drawn is the same for a seed, an epoch and a key, whoever draws it.

Axes: R subjects.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, UInt8

from labeling.sdd.schema import Entity
from model.inputs.subject import SubjectPictures
from training.data.config import DataConfig
from training.data.crop import cropped, decoded, pitch_in, pitch_of
from training.data.cutouts import cut_out, moved, without_cavities
from training.data.errors import PoisonedRow
from training.data.placement import Offsets, Square, drawn_square, drawn_subjects, offsets
from training.data.rows import TrainingRow

_TOLERANCE_PX = 1.0
"""How far a box may reach over the image's edge: detectors round."""


class Drawn(NamedTuple):
    """What is drawn of a row without looking at its image."""

    subjects: list[int]
    """Among the row's entities, in their order."""
    square: Square
    pitch: int
    """Pixels of the image, a side, that a decoder may make one of."""


class Pictures(NamedTuple):
    """Those that were asked for."""

    image: UInt8[np.ndarray, "_px _px 3"] | None
    subjects: UInt8[np.ndarray, "R _s _s 3"] | None


class PictureMaker:
    """Draws crops and makes pictures of rows.

    Args:
        subjects: makes a subject's picture of its cut-out.
        seed: the job's.
    """

    def __init__(self, config: DataConfig, subjects: SubjectPictures, seed: int) -> None:
        self._config, self._subjects, self._seed = config, subjects, seed

    def drawn(self, row: TrainingRow, epoch: int, count: int) -> Drawn:
        """`count` of the row's subjects and a crop that holds them.

        Raises:
            PoisonedRow: a box is none.
        """
        rng = self._rng(row, epoch)
        ranges = _checked_offsets(row)
        chosen = drawn_subjects(ranges, count, rng)
        pitch = pitch_of(row.width_px, row.height_px, self._config.image_px)
        held = Offsets(ranges.first[chosen], ranges.last[chosen])
        return Drawn(chosen, drawn_square(held, row.width_px, row.height_px, pitch, rng), pitch)

    def __call__(
        self, row: TrainingRow, epoch: int, drawn: Drawn, *, image: bool = True, subjects: bool = True
    ) -> Pictures:
        """The pictures of what was drawn.

        Raises:
            PoisonedRow: the image or a mask of the row cannot be used.
        """
        if not image and not subjects:
            return Pictures(None, None)
        assert row.image is not None, "who wants pictures reads the image"
        pixels = decoded(row.image, row.width_px, row.height_px, drawn.pitch)
        pitch = pitch_in(pixels, row.width_px, drawn.pitch)
        return Pictures(
            image=cropped(pixels, pitch, drawn.square, self._config.image_px) if image else None,
            subjects=self._cut_out(pixels, pitch, row, epoch, drawn.subjects) if subjects else None,
        )

    def _cut_out(
        self, pixels: UInt8[np.ndarray, "_h _w 3"], pitch: int, row: TrainingRow, epoch: int, chosen: Sequence[int]
    ) -> UInt8[np.ndarray, "R _s _s 3"]:
        pictures = []
        for index in chosen:
            rng = self._rng(row, epoch, 1 + index)
            cut = cut_out(pixels, pitch, row.entities[index].mask, self._subjects.side_px)
            if self._subjects.fill_cavities:
                cut = without_cavities(cut)
            cut = moved(cut, self._config.augmentation, rng)
            pictures.append(self._subjects(cut.pixels, cut.mask, rng))
        return np.stack(pictures)

    def _rng(self, row: TrainingRow, epoch: int, *more: int) -> np.random.Generator:
        return np.random.default_rng([self._seed, epoch, int.from_bytes(row.key, "big"), *more])


def corners_of(entities: Sequence[Entity]) -> Float[np.ndarray, "R 4"]:
    """The boxes, xyxy in pixels of the image."""
    boxes = [(entity.box.x0, entity.box.y0, entity.box.x1, entity.box.y1) for entity in entities]
    return np.array(boxes, np.float32)


def _checked_offsets(row: TrainingRow) -> Offsets:
    """Of the crops that hold each entity, once its box is known to be one."""
    if not row.entities:
        raise PoisonedRow("no_subject", "the row has no entity")
    boxes = corners_of(row.entities)
    for entity, (x0, y0, x1, y1) in zip(row.entities, boxes, strict=True):
        if not np.isfinite((x0, y0, x1, y1)).all():
            raise PoisonedRow("box_not_finite", f"the box of {entity.label!r} is {entity.box}")
        over = max(-x0, -y0, x1 - row.width_px, y1 - row.height_px)
        if over > _TOLERANCE_PX or x0 >= x1 or y0 >= y1:
            where = f"an image of {row.width_px}x{row.height_px}"
            raise PoisonedRow("box_outside", f"the box of {entity.label!r} is {entity.box}, in {where}")
    return offsets(boxes, np.array(row.width_px), np.array(row.height_px))
