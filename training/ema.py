"""The running mean of the weights over steps, which is what is exported."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from training.parallel import local


class Ema:
    """Exponential mean of named weights in float32.

    Args:
        decay: in the long run; early steps count more, so that the start is forgotten.
    """

    def __init__(self, weights: Mapping[str, nn.Parameter], decay: float) -> None:
        self._weights, self._decay = list(weights.values()), decay
        self.tensors = {name: weight.detach().clone() for name, weight in weights.items()}
        """The means by name; writing into the tensors changes them."""

    @torch.no_grad()
    def update(self, step: int) -> None:
        """Take in the weights after step `step`, from 0."""
        decay = min(self._decay, (1 + step) / (10 + step))
        means: list[Tensor] = [local(mean) for mean in self.tensors.values()]
        torch._foreach_lerp_(means, [local(weight) for weight in self._weights], 1 - decay)

    @contextmanager
    def in_weights(self) -> Iterator[None]:
        """Within, the weights are their means; after it they are what they were, bit for bit."""
        with torch.no_grad():
            weights = [local(weight) for weight in self._weights]
            kept = [weight.clone() for weight in weights]
            try:
                torch._foreach_copy_(weights, [local(mean) for mean in self.tensors.values()])
                yield
            finally:
                torch._foreach_copy_(weights, kept)
