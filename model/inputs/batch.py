"""The tensors of one batch for training or sampling.

Axes: B images, R reference subjects, K entity tokens, T text tokens, P patches, C latent channels, H W rows and
columns of the latent.
"""

from dataclasses import dataclass, fields

import torch
from jaxtyping import Bool, Float, Int, UInt8
from torch import Tensor

ABSENT = -1
"""Placeholder position of a slot without a subject."""


@dataclass(frozen=True)
class PromptTokens:
    """Tokenized prompts of the template, made by `model/inputs/prompt.py`."""

    token_ids: Int[Tensor, "B T"]
    """Token ids with start, end and padding."""
    placeholder_positions: Int[Tensor, "B R"]
    """Position of each subject's [PH]; `ABSENT` in slots without a subject."""
    entity_tokens: Float[Tensor, "B K T"]
    """Weight of each token in an entity's map. A row sums to 1, or to 0 in an absent slot. K runs over subjects, and
    within a subject over its label and its placeholder."""


@dataclass(frozen=True)
class ImageFeatures:
    """Outputs of the image encoder for the subjects' pictures."""

    cls: Float[Tensor, "B R _e"]
    """The CLS embedding v_g, projected into the space that CLIP shares with text."""
    patches: Float[Tensor, "B R P _v"]
    """The patch tokens v."""


@dataclass(frozen=True)
class SubjectBatch:
    """Images with their prompts and subjects.

    A training batch needs `images` or `latent_moments`, and `subject_images` or `image_features`. The second of each
    pair is the first one encoded in advance.
    """

    prompts: PromptTokens
    boxes: Float[Tensor, "B R 4"]
    """Boxes of the subjects: xyxy as shares of the image, 0 to 1."""
    masks: Float[Tensor, "B R _y _x"]
    """Masks of the subjects: 1 inside, 0 outside, at any resolution that the sides of the maps divide."""
    present: Bool[Tensor, "B R"]
    """Slots that hold a subject. Values in the other slots have no effect."""
    images: UInt8[Tensor, "B 3 _height _width"] | None = None
    """Training images in RGB, 0 to 255."""
    latent_moments: Float[Tensor, "B _moments H W"] | None = None
    """Mean and log-variance of the VAE's posterior."""
    subject_images: UInt8[Tensor, "B R 3 _s _s"] | None = None
    """Pictures of the subjects, made by `model/inputs/subject.py`."""
    image_features: ImageFeatures | None = None
    """Outputs of the image encoder for the subjects' pictures."""
    full: bool = False
    """True if every slot is known to hold a subject, so that attention needs no mask. The host must know it without
    waiting for the device."""

    def to(self, device: torch.device | str, non_blocking: bool = True) -> "SubjectBatch":
        """Return a copy of the batch on `device`."""
        moved = _move(self, device, non_blocking)
        assert isinstance(moved, SubjectBatch)
        return moved


def _move(part: object, device: torch.device | str, non_blocking: bool) -> object:
    """Return `part` with all its tensors on `device`."""
    if isinstance(part, Tensor):
        return part.to(device, non_blocking=non_blocking)
    if isinstance(part, PromptTokens | ImageFeatures | SubjectBatch):
        values = {field.name: _move(getattr(part, field.name), device, non_blocking) for field in fields(part)}
        # Each field gets a value of the type that it had, which a dictionary of objects does not show.
        return type(part)(**values)  # type: ignore[arg-type]
    return part
