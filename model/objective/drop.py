"""Classifier-free dropout: draws which conditions each image of a training batch is trained without.

The sampler's null branches (`model/sampling/guidance.py`) are the same events, so the network has been trained on them.
"""

from dataclasses import dataclass
from itertools import accumulate, pairwise
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from model.config import DropConfig

_ROUNDING = 1e-9
"""Share of a row by which sums of probabilities may fall short."""


@dataclass(frozen=True)
class DropMasks:
    """Which conditions each image of a batch is trained without."""

    text: Bool[Tensor, " B"]
    """Images with an empty prompt, and so without CLS embedding."""
    image: Bool[Tensor, " B"]
    """Images with a zero location mask and adapters off or given null tokens (`ModelConfig.null_branches`)."""
    layout: Bool[Tensor, " B"]
    """Images with a zero location mask."""
    last_without_image: int = 0
    """Number of rows at the end of the batch that are in `image` whatever is drawn."""


class _Chances(NamedTuple):
    """Probabilities of the events, in the order of their ranges of the uniform draw."""

    text: float
    image: float
    layout: float
    text_and_layout: float
    all: float


def draw_drops(images: int, config: DropConfig, device: torch.device, generator: torch.Generator | None) -> DropMasks:
    """Draw at most one event per image, with the probabilities of `config`."""
    uniform = torch.rand(images, generator=generator, device=device)
    chances = _Chances(config.text, config.image, config.layout, config.text_and_layout, config.all)
    fixed = count_fixed_rows(images, config)
    if not fixed:
        return _events(uniform, chances)
    free = _events(uniform[:-fixed], _of_free_rows(chances, images, fixed))
    last = _events(uniform[-fixed:], _of_fixed_rows(chances))
    return DropMasks(
        text=torch.cat([free.text, last.text]),
        image=torch.cat([free.image, torch.ones_like(last.image)]),
        layout=torch.cat([free.layout, last.layout]),
        last_without_image=fixed,
    )


def count_fixed_rows(images: int, config: DropConfig) -> int:
    """Return the number of rows at the end of a batch that are always without image; at least one row is not."""
    if not config.fixed_rows:
        return 0
    return min(int(images * (config.image + config.all) + _ROUNDING), images - 1)


def _of_free_rows(chances: _Chances, images: int, fixed: int) -> _Chances:
    """Return the probabilities of the other rows, such that those of the whole batch are `chances` in the mean."""
    free, without_image = images - fixed, chances.image + chances.all
    rest = max(images * without_image - fixed, 0.0) / free / without_image
    more = images / free
    return _Chances(
        text=more * chances.text,
        image=rest * chances.image,
        layout=more * chances.layout,
        text_and_layout=more * chances.text_and_layout,
        all=rest * chances.all,
    )


def _of_fixed_rows(chances: _Chances) -> _Chances:
    without_image = chances.image + chances.all
    return _Chances(0.0, chances.image / without_image, 0.0, 0.0, chances.all / without_image)


def _events(uniform: Float[Tensor, " B"], chances: _Chances) -> DropMasks:
    # The edges are Python numbers: a tensor would have to be copied to the device, which the host would wait for.
    edges = pairwise((0.0, *accumulate(chances)))
    text, image, layout, text_and_layout, everything = ((low <= uniform) & (uniform < high) for low, high in edges)
    return DropMasks(
        text=text | text_and_layout | everything,
        image=image | everything,
        layout=layout | text_and_layout | everything,
    )
