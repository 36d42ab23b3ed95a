"""Muon (Jordan et al., 2024): momentum whose matrices are made nearly orthogonal before the update.

The version in torch.optim computes in bfloat16. On processors without bfloat16 instructions its step takes several
times as long as the network's. This version computes in float32.
"""

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

MOMENTUM = 0.95
_A, _B, _C = 3.4445, -4.7750, 2.0315
"""Coefficients of the quintic iteration that brings all singular values near 1."""
_ITERATIONS = 5
_ADAM_RMS = 0.2
"""Approximate root mean square of AdamW's updates, so that AdamW's rates and decays can be used."""


class Muon(Optimizer):
    """Muon for matrices and convolution kernels, with Nesterov momentum and decoupled weight decay."""

    def __init__(self, groups: Iterable[dict[str, Any]], lr: float, weight_decay: float) -> None:
        super().__init__(groups, {"lr": lr, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]  # torch's step also takes a closure, which no recipe uses
        """Update the weights."""
        for group in self.param_groups:
            for weight in group["params"]:
                if weight.grad is not None:
                    matrix = self._momentum(weight, weight.grad).flatten(1)
                    update = orthogonal(matrix) * _ADAM_RMS * max(matrix.shape) ** 0.5
                    weight.mul_(1 - group["lr"] * group["weight_decay"]).sub_(update.view_as(weight), alpha=group["lr"])

    def _momentum(self, weight: Tensor, gradient: Tensor) -> Tensor:
        state = self.state[weight]
        if not state:
            state["momentum_buffer"] = torch.zeros_like(weight)
        mean: Tensor = state["momentum_buffer"].lerp_(gradient, 1 - MOMENTUM)
        return gradient.lerp(mean, MOMENTUM)


def orthogonal(matrix: Tensor) -> Tensor:
    """Return the matrix [m, n] with singular values between about .7 and 1.2; zeros remain zero."""
    wide = matrix.T if matrix.shape[0] > matrix.shape[1] else matrix
    x: Tensor = wide / torch.linalg.matrix_norm(wide).clamp(min=1e-7)
    for _ in range(_ITERATIONS):
        gram = x @ x.T
        x = _A * x + (_B * gram + _C * gram @ gram) @ x
    return x.T if matrix.shape[0] > matrix.shape[1] else x
