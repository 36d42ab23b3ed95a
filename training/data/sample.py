"""One row made into what the network is trained on: the same for a seed, an epoch and a key, whoever makes it.

Axes: R subjects.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, UInt8

from labeling.sdd.schema import Entity
from model.errors import PromptError
from model.prompt import Prompt, PromptTokenizer, TokenizedPrompt
from model.subject import SubjectPictures
from training.data.config import DataConfig
from training.data.crop import box_shares, cropped, decoded, pitch_in, pitch_of
from training.data.cutouts import cut_out, moved
from training.data.errors import PoisonedRow
from training.data.masks import cell_shares, spans
from training.data.placement import Offsets, Square, drawn_square, drawn_subjects, offsets
from training.data.rows import TrainingRow

_TOLERANCE_PX = 1.0
"""How far a box may reach over the image's edge: detectors round."""


@dataclass(frozen=True, slots=True)
class Sample:
    """One image with its prompt and subjects."""

    image: UInt8[np.ndarray, "_px _px 3"]
    prompt: TokenizedPrompt
    boxes: Float[np.ndarray, "R 4"]
    """xyxy in [0, 1] of the image."""
    masks: Float[np.ndarray, "R _side _side"]
    """How much of each position of the latent is the subject's."""
    subject_images: UInt8[np.ndarray, "R _s _s 3"]


class SampleMaker:
    """Makes samples of rows.

    Args:
        prompts: the network's.
        pictures: of subjects, for the image encoder.
        seed: the job's.
    """

    def __init__(self, config: DataConfig, prompts: PromptTokenizer, pictures: SubjectPictures, seed: int) -> None:
        self.prompts = prompts
        self._config, self._pictures, self._seed = config, pictures, seed

    def __call__(self, row: TrainingRow, epoch: int, count: int) -> Sample:
        """A sample with `count` of the row's subjects, in the order of the row.

        Raises:
            PoisonedRow: image, boxes, masks or words of the row cannot be used.
        """
        rng = self._rng(row, epoch)
        ranges = _checked_offsets(row)
        chosen = drawn_subjects(ranges, count, rng)
        entities = [row.entities[index] for index in chosen]
        prompt = self._prompt(row, entities)
        pitch = pitch_of(row.width_px, row.height_px, self._config.image_px)
        held = Offsets(ranges.first[chosen], ranges.last[chosen])
        square = drawn_square(held, row.width_px, row.height_px, pitch, rng)
        masks = self._masks(row, entities, square)
        pixels = decoded(row.image, row.width_px, row.height_px, pitch)
        pitch = pitch_in(pixels, row.width_px, pitch)
        return Sample(
            image=cropped(pixels, pitch, square, self._config.image_px),
            prompt=prompt,
            boxes=box_shares(_boxes(entities), square),
            masks=masks,
            subject_images=np.stack(
                [
                    self._picture(pixels, pitch, row.entities[index], self._rng(row, epoch, 1 + index))
                    for index in chosen
                ]
            ),
        )

    def _rng(self, row: TrainingRow, epoch: int, *more: int) -> np.random.Generator:
        return np.random.default_rng([self._seed, epoch, int.from_bytes(row.key, "big"), *more])

    def _prompt(self, row: TrainingRow, entities: Sequence[Entity]) -> TokenizedPrompt:
        for entity in entities:
            if entity.label not in row.caption.lower():
                raise PoisonedRow("label_not_in_caption", f"{entity.label!r} is not in the caption {row.caption!r}")
        try:
            return self.prompts.tokenized(Prompt(row.caption, [entity.label for entity in entities]))
        except PromptError as error:
            raise PoisonedRow("unusable_prompt", str(error)) from error

    def _masks(
        self, row: TrainingRow, entities: Sequence[Entity], square: Square
    ) -> Float[np.ndarray, "R _side _side"]:
        cells = self._config.image_px // self._config.latent_downsampling
        masks = np.stack([cell_shares(spans(entity.mask), square, cells) for entity in entities])
        for entity, shares in zip(entities, masks, strict=True):
            _check_mask(row, entity, bool(shares.any()))
        return masks

    def _picture(
        self, pixels: UInt8[np.ndarray, "_h _w 3"], pitch: int, entity: Entity, rng: np.random.Generator
    ) -> UInt8[np.ndarray, "_s _s 3"]:
        cut = moved(cut_out(pixels, pitch, entity.mask, self._pictures.side_px), self._config.augmentation, rng)
        return self._pictures(cut.pixels, cut.mask, rng)


def _checked_offsets(row: TrainingRow) -> Offsets:
    """Of the crops that hold each entity, once its box is known to be one."""
    if not row.entities:
        raise PoisonedRow("no_subject", "the row has no entity")
    boxes = _boxes(row.entities)
    for entity, (x0, y0, x1, y1) in zip(row.entities, boxes, strict=True):
        if not np.isfinite((x0, y0, x1, y1)).all():
            raise PoisonedRow("box_not_finite", f"the box of {entity.label!r} is {entity.box}")
        over = max(-x0, -y0, x1 - row.width_px, y1 - row.height_px)
        if over > _TOLERANCE_PX or x0 >= x1 or y0 >= y1:
            where = f"an image of {row.width_px}x{row.height_px}"
            raise PoisonedRow("box_outside", f"the box of {entity.label!r} is {entity.box}, in {where}")
    return offsets(boxes, np.array(row.width_px), np.array(row.height_px))


def _check_mask(row: TrainingRow, entity: Entity, is_in_crop: bool) -> None:
    mask = entity.mask
    right, bottom = mask.x0 + mask.width_px, mask.y0 + mask.height_px
    if min(mask.x0, mask.y0) < 0 or right > row.width_px or bottom > row.height_px:
        raise PoisonedRow("mask_outside", f"the mask of {entity.label!r} reaches over the image's edge")
    if not is_in_crop:
        raise PoisonedRow("mask_not_in_crop", f"the mask of {entity.label!r} is not where its box is")


def _boxes(entities: Sequence[Entity]) -> Float[np.ndarray, "R 4"]:
    boxes = [(entity.box.x0, entity.box.y0, entity.box.x1, entity.box.y1) for entity in entities]
    return np.array(boxes, np.float32)
