"""The exponential moving average of the weights, which is exported as the model."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from training.distributed.parallel import local_part


class Ema:
    """Exponential moving average of named weights, in float32.

    Args:
        decay: factor of the old mean in each step, 0 to 1. Early steps use a smaller factor, which quickly removes the
            initial weights.
    """

    def __init__(self, weights: Mapping[str, nn.Parameter], decay: float) -> None:
        self._weights, self._decay = list(weights.values()), decay
        self.tensors = {name: weight.detach().clone() for name, weight in weights.items()}
        """The means by name; writing into the tensors changes them."""

    @torch.no_grad()
    def update(self, step: int) -> None:
        """Add the weights after step `step`, counted from 0."""
        decay = min(self._decay, (1 + step) / (10 + step))
        means: list[Tensor] = [local_part(mean) for mean in self.tensors.values()]
        torch._foreach_lerp_(means, [local_part(weight) for weight in self._weights], 1 - decay)

    @contextmanager
    def use_as_weights(self) -> Iterator[None]:
        """Replace the weights by their means inside the block, and restore them bit for bit after it."""
        with torch.no_grad():
            weights = [local_part(weight) for weight in self._weights]
            kept = [weight.clone() for weight in weights]
            try:
                torch._foreach_copy_(weights, [local_part(mean) for mean in self.tensors.values()])
                yield
            finally:
                torch._foreach_copy_(weights, kept)
