"""The optimiser and its learning rate schedule."""

from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from training.config import OptimizerConfig


def learning_rate(step: int, config: OptimizerConfig, steps: int) -> float:
    """Return the learning rate of step `step` of `steps`, counted from 0.

    It rises linearly over the warm-up, stays constant, and falls linearly over the last `decay_steps` steps.
    """
    rise = (step + 1) / max(1, config.warmup_steps)
    fall = (steps - step) / (config.decay_steps + 1)
    return config.learning_rate * max(0.0, min(1.0, rise, fall))


class Optimizer:
    """Fused AdamW over named weights. Its state is created at once, so that a checkpoint can be read into it.

    A step with non-finite gradients changes nothing. The device decides that; the host does not wait for it.
    """

    def __init__(self, weights: Mapping[str, nn.Parameter], config: OptimizerConfig, steps: int) -> None:
        self._config, self._steps = config, steps
        split = [weight for weight in weights.values() if isinstance(weight, DTensor)]
        whole = [weight for weight in weights.values() if not isinstance(weight, DTensor)]
        self._adamw = torch.optim.AdamW(
            [{"params": group} for group in (split, whole) if group],  # a fused kernel takes one kind of tensor
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
        """Update the weights and clear their gradients.

        Args:
            step: number of the step, from 0.
            skipped: scalar on the device; if it is true, weights and moments keep their values.
        """
        for group in self._adamw.param_groups:
            group["lr"] = learning_rate(step, self._config, self._steps)
        self._adamw.found_inf = skipped.float()  # type: ignore[attr-defined]  # as torch's GradScaler sets it
        self._adamw.step()
        self._adamw.zero_grad()

    def tensors(self, weights: Mapping[str, nn.Parameter]) -> dict[str, Tensor]:
        """Return the state by name. Writing into the tensors changes the state."""
        return {
            f"{name}.{moment}": tensor
            for name, weight in weights.items()
            for moment, tensor in self._adamw.state[weight].items()
        }
