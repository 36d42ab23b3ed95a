"""Makes training samples of rows. A sample follows from the seed, the epoch and the row alone.

Axes: R subjects, M twice the latent's channels, P patches.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, UInt8

from labeling.sdd.schema import Entity
from model.config import ModelConfig
from model.errors import PromptError
from model.inputs.prompt import Prompt, PromptTokenizer, TokenizedPrompt
from model.inputs.subject import SubjectPictures
from training.data.config import DataConfig
from training.data.errors import PoisonedRow
from training.data.pictures import PictureMaker
from training.data.placement import Square
from training.data.regions import SubjectRegions
from training.data.rows import TrainingRow


@dataclass(frozen=True, slots=True)
class EncodedPictures:
    """Outputs of the frozen networks for a row's pictures, read from a cache."""

    latent_moments: Float[np.ndarray, "M _side _side"]
    cls: Float[np.ndarray, "R _e"] | None = None
    patches: Float[np.ndarray, "R P _v"] | None = None


@dataclass(frozen=True, slots=True)
class Sample:
    """One image with its prompt and subjects. Pictures that come encoded are None."""

    prompt: TokenizedPrompt
    boxes: Float[np.ndarray, "R 4"]
    """Boxes of the subjects, xyxy in [0, 1] of the image."""
    masks: Float[np.ndarray, "R _side _side"]
    """Share of each position of the latent, or of each pixel of the image, that each subject covers, 0 to 1."""
    image: UInt8[np.ndarray, "_px _px 3"] | None = None
    subject_images: UInt8[np.ndarray, "R _s _s 3"] | None = None
    encoded: EncodedPictures | None = None


class SampleMaker:
    """Makes samples of rows.

    Args:
        prompts: the network's tokenizer.
        pictures: makes the subjects' pictures for the image encoder.
        seed: seed of the job.
    """

    def __init__(
        self, config: DataConfig, model: ModelConfig, prompts: PromptTokenizer, pictures: SubjectPictures, seed: int
    ) -> None:
        self.prompts = prompts
        self._regions, self._pictures = SubjectRegions(config, model), PictureMaker(config, pictures, seed)

    def __call__(
        self,
        row: TrainingRow,
        epoch: int,
        count: int,
        encoded: EncodedPictures | PoisonedRow | None = None,
        view: int | None = None,
    ) -> Sample:
        """Return a sample with `count` of the row's subjects, in the order of the row.

        Args:
            encoded: cached outputs for the draw `view`, or the reason why there are none.
            view: epoch whose subjects and crop to draw; None for `epoch`. The augmentation of subjects without cached
                features always follows `epoch`.

        Raises:
            PoisonedRow: image, boxes, masks or labels of the row cannot be used.
        """
        draw = self._pictures.draw(row, epoch if view is None else view, count)
        entities = [row.entities[index] for index in draw.subjects]
        prompt, masks = self._prompt(row, entities), self._masks(row, entities, draw.square)
        if isinstance(encoded, PoisonedRow):
            raise encoded
        subjects = encoded is None or encoded.cls is None
        pictures = self._pictures(row, epoch, draw, image=encoded is None, subjects=subjects)
        boxes = self._regions.boxes(entities, draw.square)
        return Sample(prompt, boxes, masks, pictures.image, pictures.subjects, encoded)

    def _prompt(self, row: TrainingRow, entities: Sequence[Entity]) -> TokenizedPrompt:
        for entity in entities:
            if not 0 <= entity.span_start < entity.span_end <= len(row.caption):
                span = f"characters {entity.span_start} to {entity.span_end}"
                raise PoisonedRow("label_not_in_caption", f"{entity.label!r} at {span} of the caption {row.caption!r}")
        try:
            return self.prompts.tokenize(Prompt(row.caption, [entity.label for entity in entities]))
        except PromptError as error:
            raise PoisonedRow("unusable_prompt", str(error)) from error

    def _masks(
        self, row: TrainingRow, entities: Sequence[Entity], square: Square
    ) -> Float[np.ndarray, "R _side _side"]:
        masks = self._regions.masks(entities, square)
        for entity, shares in zip(entities, masks, strict=True):
            _check_mask(row, entity, bool(shares.any()))
        return masks


def _check_mask(row: TrainingRow, entity: Entity, is_in_crop: bool) -> None:
    mask = entity.mask
    right, bottom = mask.x0 + mask.width_px, mask.y0 + mask.height_px
    if min(mask.x0, mask.y0) < 0 or right > row.width_px or bottom > row.height_px:
        raise PoisonedRow("mask_outside", f"the mask of {entity.label!r} exceeds the image")
    if not is_in_crop:
        raise PoisonedRow("mask_not_in_crop", f"the mask of {entity.label!r} does not overlap its box")
