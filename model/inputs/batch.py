"""What the network is trained on: the tensors of one batch.

Axes: B images, R reference subjects, K entity tokens, T text tokens, P patches, C latent channels, H W rows and
columns of the latent.
"""

from dataclasses import dataclass, fields, replace
from typing import Any

import torch
from jaxtyping import Bool, Float, Int, UInt8
from torch import Tensor

ABSENT = -1


@dataclass(frozen=True)
class PromptTokens:
    """Prompts of the template, tokenized (`model/inputs/prompt.py` makes them)."""

    token_ids: Int[Tensor, "B T"]
    placeholder_positions: Int[Tensor, "B R"]
    """Where [PH] of each subject stands; -1 where the slot is absent."""
    entity_tokens: Float[Tensor, "B K T"]
    """How much each token counts in an entity's map: rows add up to 1, or are 0. K runs over subjects, and within a
    subject over its label and its placeholder."""


@dataclass(frozen=True)
class ImageFeatures:
    """What the image encoder says of the subjects' pictures."""

    cls: Float[Tensor, "B R _e"]
    """v_g, projected into the space CLIP shares with text."""
    patches: Float[Tensor, "B R P _v"]
    """v, the patch tokens."""


@dataclass(frozen=True)
class SubjectBatch:
    """Images with their prompts and subjects.

    Give `images` or `latent_moments`, and `subject_images` or `image_features`: the second is the first, encoded ahead.
    """

    prompts: PromptTokens
    boxes: Float[Tensor, "B R 4"]
    """xyxy in [0, 1] of the image."""
    masks: Float[Tensor, "B R _y _x"]
    """1 inside the subject, 0 outside, at any resolution that the maps' sides divide."""
    present: Bool[Tensor, "B R"]
    """Which slots hold a subject. What the others hold has no effect."""
    images: UInt8[Tensor, "B 3 _height _width"] | None = None
    latent_moments: Float[Tensor, "B _moments H W"] | None = None
    """Mean and log-variance of the VAE's posterior."""
    subject_images: UInt8[Tensor, "B R 3 _s _s"] | None = None
    """The subjects' pictures (`model/inputs/subject.py` makes them)."""
    image_features: ImageFeatures | None = None
    full: bool = False
    """Every slot holds a subject, so that attention needs no mask. Known on the host: true of batches of one count."""

    def to(self, device: torch.device | str, non_blocking: bool = True) -> "SubjectBatch":
        """The batch on `device`."""
        moved: SubjectBatch = _moved(self, device, non_blocking)
        return moved


def _moved(part: Any, device: torch.device | str, non_blocking: bool) -> Any:
    if isinstance(part, Tensor):
        return part.to(device, non_blocking=non_blocking)
    if isinstance(part, PromptTokens | ImageFeatures | SubjectBatch):
        parts = {field.name: _moved(getattr(part, field.name), device, non_blocking) for field in fields(part)}
        return replace(part, **parts)
    return part
