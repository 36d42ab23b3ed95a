"""One step of the optimiser over a worker's batches, in which the host never waits for the device."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.compiler import set_stance

from infra.precision import Precision
from model.inputs.batch import SubjectBatch
from model.subject_diffusion import TrainingLoss
from training.config import TrainingConfig
from training.monitoring.probe import identity_probe
from training.optimization.state import TrainingState


class LossSums(NamedTuple):
    """Losses summed over images, by the names that they have in the metrics, and the counts to divide them by."""

    loss: float = 0.0
    """Sum of the total losses of the images."""
    denoising: float = 0.0
    """Sum of the images' errors of the predicted noise."""
    L_attn: float = 0.0
    """Sum of the images' losses of Eq. 2."""
    attention_in_mask: float = 0.0
    """Sum of the images' shares of attention inside the masks."""
    images: float = 0.0
    """Images with finite losses."""
    skipped_rows: float = 0.0
    """Rows that could not be trained on."""

    def plus(self, other: "LossSums") -> "LossSums":
        """Return the sums over the images of both."""
        return LossSums(*(mine + theirs for mine, theirs in zip(self, other, strict=True)))

    def means(self) -> dict[str, float | None]:
        """Return the mean loss of an image by name; None where no image had a finite loss."""
        sums = {
            "loss": self.loss,
            "denoising": self.denoising,
            "L_attn": self.L_attn,
            "attention_in_mask": self.attention_in_mask,
        }
        return {name: total / self.images if self.images else None for name, total in sums.items()}


@dataclass(frozen=True)
class MicroBatch:
    """One of the batches of a step, on the device."""

    number: int
    """Number of the batch in the plan."""
    batch: SubjectBatch
    """Its tensors, on the device."""
    rows: int
    """Rows of `batch` that count; 0 where a blank image stands in for a batch without usable rows."""
    share: float
    """Weight of its loss in the step. All workers' weights add up to the number of workers, as gradients are averaged.
    """
    whole: bool
    """Whether it has as many rows as the compiled graphs expect."""


class StepMonitor:
    """Losses summed over images, and counts of steps with non-finite gradients. They stay on the device until read."""

    def __init__(self, device: torch.device) -> None:
        self._sums = torch.zeros(len(LossSums._fields), device=device)
        self.non_finite_in_a_row = torch.zeros((), device=device)
        """Number of steps in a row, up to the last one, whose gradients were not finite."""
        self.non_finite_steps = torch.zeros((), device=device)
        """Number of steps whose gradients were not finite since it was last set to zero."""
        self.norm = torch.zeros((), device=device)
        """Norm of the gradients of the last step."""

    @torch.no_grad()
    def add_loss(self, loss: TrainingLoss, rows: int) -> None:
        """Add the loss of a batch, unless it is not finite."""
        one, zero = loss.total.new_ones(()), loss.total.new_zeros(())
        values = torch.stack([loss.total, loss.denoising, loss.attention, loss.attention_in_mask, one, zero])
        self._sums += torch.where(loss.total.isfinite(), values.float() * rows, 0.0)

    def add_gradients(self, norm: Tensor, not_finite: Tensor) -> None:
        """Count a step by the norm of its gradients."""
        self.norm = norm
        self.non_finite_in_a_row = (self.non_finite_in_a_row + not_finite) * not_finite
        self.non_finite_steps = self.non_finite_steps + not_finite

    def take_sums(self, skipped_rows: int) -> Tensor:
        """Return the fields of this worker's `LossSums`, on the device, and start again from zero."""
        sums, self._sums = self._sums, torch.zeros_like(self._sums)
        sums[LossSums._fields.index("skipped_rows")] += skipped_rows
        return sums


class TrainingStep:
    """Forward and backward passes, clipping, and the update of weights and their moving average."""

    def __init__(self, state: TrainingState, config: TrainingConfig) -> None:
        self._state, self._config, self._replica = state, config, state.replica
        self.monitor = StepMonitor(state.replica.worker.device)

    def __call__(self, step: int, batches: Sequence[MicroBatch]) -> None:
        """Do step `step`, counted from 0."""
        for index, micro in enumerate(batches):
            with self._replica.accumulate(last=index == len(batches) - 1):
                self._backward(micro)
        gradients = self._replica.gradients()
        norm = self._replica.norm(gradients)
        not_finite = ~norm.isfinite()
        if self._config.optimizer.clip_norm:
            torch._foreach_mul_(gradients, (self._config.optimizer.clip_norm / (norm + 1e-6)).clamp(max=1.0))
        self._state.optimizer.step(step, skipped=not_finite)
        self._state.ema.update(step)
        self.monitor.add_gradients(norm, not_finite)

    def _backward(self, micro: MicroBatch) -> None:
        # Random numbers follow from the number of the batch alone, so a resumed job draws the same ones.
        torch.manual_seed(draw_seed(self._config.seed, micro.number))
        with self._precision_and_stance(compiled=micro.whole):
            loss = self._replica(micro.batch)
        (loss.total * micro.share).backward()  # type: ignore[no-untyped-call]  # torch annotates no backward
        self.monitor.add_loss(loss, micro.rows)

    def probe(self, micro: MicroBatch) -> Tensor:
        """Return the `identity_probe` of a batch."""
        with self._precision_and_stance(compiled=False):  # rare batches are not worth graphs of their own
            return identity_probe(self._replica, micro.batch, draw_seed(self._config.seed, micro.number))

    @contextmanager
    def _precision_and_stance(self, compiled: bool) -> Iterator[None]:
        device, fast = self._replica.worker.device.type, self._config.precision is Precision.BFLOAT16
        with torch.autocast(device, torch.bfloat16, enabled=fast):
            if compiled:
                yield
            else:
                with set_stance("force_eager"):
                    yield


def draw_seed(seed: int, number: int) -> int:
    """Return the seed of a batch's noise, timesteps and dropped conditions."""
    return int(np.random.SeedSequence([seed, number]).generate_state(1)[0])
