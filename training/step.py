"""One step of the optimiser over a worker's batches, in which the host never waits for the device."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.compiler import set_stance

from infra.precision import Precision
from model.inputs.batch import SubjectBatch
from model.subject_diffusion import TrainingLoss
from training.config import TrainingConfig
from training.monitoring.probe import identity_probe
from training.state import TrainingState

WATCHED = ("loss", "denoising", "L_attn", "attention_in_mask")


@dataclass(frozen=True)
class MicroBatch:
    """A batch on its way through a step."""

    number: int
    """In the plan."""
    batch: SubjectBatch
    """On the device."""
    rows: int
    """Of `batch` that count: 0 where it only stands in for one that had none to train on."""
    share: float
    """Of the step's loss; all workers' shares add up to their number, since their gradients are averaged."""
    whole: bool
    """As many rows as compiled graphs are made for."""


class Watch:
    """Sums over images and counts over steps, kept on the device until somebody reads them."""

    def __init__(self, device: torch.device) -> None:
        self._sums = torch.zeros(len(WATCHED) + 1, device=device)
        self.in_a_row = torch.zeros((), device=device)
        """Last steps whose gradients were no numbers."""
        self.left_out = torch.zeros((), device=device)
        """Steps whose gradients were no numbers, since it was last set to zero."""
        self.norm = torch.zeros((), device=device)
        """Of the last step's gradients."""

    @torch.no_grad()
    def saw_loss(self, loss: TrainingLoss, rows: int) -> None:
        """Add a batch's loss, unless it is no number."""
        values = torch.stack(
            [loss.total, loss.denoising, loss.attention, loss.attention_in_mask, loss.total.new_ones(())]
        )
        self._sums += torch.where(loss.total.isfinite(), values.float() * rows, 0.0)

    def saw_gradients(self, norm: Tensor, not_finite: Tensor) -> None:
        """Count a step."""
        self.norm = norm
        self.in_a_row = (self.in_a_row + not_finite) * not_finite
        self.left_out = self.left_out + not_finite

    def taken(self) -> Tensor:
        """The sums of `WATCHED` and the number of images, which then begin anew."""
        sums, self._sums = self._sums, torch.zeros_like(self._sums)
        return sums


class TrainingStep:
    """Forward, backward, clip, update."""

    def __init__(self, state: TrainingState, config: TrainingConfig) -> None:
        self._state, self._config, self._replica = state, config, state.replica
        self.watch = Watch(state.replica.worker.device)

    def __call__(self, step: int, batches: Sequence[MicroBatch]) -> None:
        """Do step `step`, from 0."""
        for index, micro in enumerate(batches):
            with self._replica.accumulating(last=index == len(batches) - 1):
                self._backward(micro)
        gradients = self._replica.gradients()
        norm = self._replica.norm(gradients)
        not_finite = ~norm.isfinite()
        if self._config.optimizer.clip_norm:
            torch._foreach_mul_(gradients, (self._config.optimizer.clip_norm / (norm + 1e-6)).clamp(max=1.0))
        self._state.optimizer.step(step, skipped=not_finite)
        self._state.ema.update(step)
        self.watch.saw_gradients(norm, not_finite)

    def _backward(self, micro: MicroBatch) -> None:
        # All that is random in a step follows from its batches' numbers, whoever computes them and whenever.
        torch.manual_seed(draw_seed(self._config.seed, micro.number))
        with self._computing(compiled=micro.whole):
            loss = self._replica(micro.batch)
        (loss.total * micro.share).backward()  # type: ignore[no-untyped-call]  # torch annotates no backward
        self.watch.saw_loss(loss, micro.rows)

    def probed(self, micro: MicroBatch) -> Tensor:
        """`identity_probe` of a batch."""
        with self._computing(compiled=False):  # no graphs of their own for what is looked at now and then
            return identity_probe(self._replica, micro.batch, draw_seed(self._config.seed, micro.number))

    @contextmanager
    def _computing(self, compiled: bool) -> Iterator[None]:
        device, fast = self._replica.worker.device.type, self._config.precision is Precision.BFLOAT16
        with torch.autocast(device, torch.bfloat16, enabled=fast):
            if compiled:
                yield
            else:
                with set_stance("force_eager"):
                    yield


def draw_seed(seed: int, number: int) -> int:
    """For noise, timesteps and dropped conditions of a batch."""
    return int(np.random.SeedSequence([seed, number]).generate_state(1)[0])
