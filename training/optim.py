"""The optimiser, and its learning rate by step."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from training.config import OptimizerConfig


def learning_rate(step: int, config: OptimizerConfig, steps: int) -> float:
    """Of step `step` of `steps`, from 0: rises in a line over the warm-up, stays, and falls in a line at the end."""
    rise = (step + 1) / max(1, config.warmup_steps)
    fall = (steps - step) / (config.decay_steps + 1)
    return config.learning_rate * max(0.0, min(1.0, rise, fall))


class Optimizer:
    """Fused AdamW over named weights, with its state made at once, so that a checkpoint can be read into it.

    A step whose gradients are no numbers changes nothing, and the device decides that alone: the host does not look.
    """

    def __init__(self, weights: Mapping[str, nn.Parameter], config: OptimizerConfig, steps: int) -> None:
        self._config, self._steps = config, steps
        split = [weight for weight in weights.values() if isinstance(weight, DTensor)]
        whole = [weight for weight in weights.values() if not isinstance(weight, DTensor)]
        groups: list[dict[str, Any]] = [{"params": group} for group in (split, whole) if group]  # kernels take one kind
        self._adamw = torch.optim.AdamW(
            groups,
            lr=config.learning_rate,
            betas=(config.beta_1, config.beta_2),
            eps=config.epsilon,
            weight_decay=config.weight_decay,
            fused=True,
        )
        for weight in weights.values():
            self._adamw.state[weight] = {
                "step": torch.zeros((), device=weight.device),
                "exp_avg": torch.zeros_like(weight),
                "exp_avg_sq": torch.zeros_like(weight),
            }

    def step(self, step: int, skipped: Tensor) -> None:
        """Update the weights and forget their gradients.

        Args:
            step: counted from 0.
            skipped: on the device; where it is true, weights and moments stay as they are.
        """
        for group in self._adamw.param_groups:
            group["lr"] = learning_rate(step, self._config, self._steps)
        self._adamw.found_inf = skipped.float()  # type: ignore[attr-defined]  # as torch's own GradScaler tells it
        self._adamw.step()
        self._adamw.zero_grad()

    def tensors(self, weights: Mapping[str, nn.Parameter]) -> dict[str, Tensor]:
        """The state by name; writing into the tensors changes it."""
        return {
            f"{name}.{moment}": tensor
            for name, weight in weights.items()
            for moment, tensor in self._adamw.state[weight].items()
        }
