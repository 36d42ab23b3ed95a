"""What a worker does from the first step of a job to its last. One worker or many, on CPU or GPU: the code is the same.

A job's position is the number of batches it has consumed: worker r of W takes the batches position + r, + W, … of the
plan, and what is random follows from their numbers. So a job that was killed goes on as if it had not been.
"""

import logging
import math
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, Protocol

import torch

from infra.precision import Precision
from model.cost.recompute import enable_recompute
from model.subject_diffusion import SubjectDiffusion
from training.blank import blank_batch
from training.checkpoints.store import Checkpoints, Identity
from training.config import TrainingConfig, TrainingJob
from training.data.loader import LoadedBatch
from training.data.plan import PlannedBatch
from training.errors import Diverged, TrainingError
from training.monitoring.metrics import MetricsLog, progress_line
from training.monitoring.samples import Rows, SampleGrids
from training.monitoring.throughput import Stopwatch
from training.optim import learning_rate
from training.parallel import Replica, Worker
from training.state import Position, TrainingState
from training.step import WATCHED, MicroBatch, TrainingStep

log = logging.getLogger(__name__)
Read = Callable[[Iterable[int]], Iterator[LoadedBatch]]
"""The batches of these numbers, in this order."""


class Batches(Protocol):
    """A plan of batches without end."""

    @property
    def stamp(self) -> str:
        """Changes with the data and with their order."""

    def batch(self, number: int) -> PlannedBatch:
        """What batch `number` holds."""


def train(
    net: SubjectDiffusion,
    job: TrainingJob,
    plan: Batches,
    read: Read,
    worker: Worker,
    start: Path | None = None,
    rows: Rows | None = None,
) -> Position:
    """Train `net` to the job's last step; checkpoints, metrics and samples are in `training.out`.

    Args:
        net: is changed in place.
        read: is called once, with the numbers of this worker's batches.
        start: a checkpoint to go on from.
        rows: reads those that are sampled; None samples none.

    Raises:
        CheckpointError: `start` does not fit this job, or a checkpoint cannot be written.
        Diverged: too many steps in a row gave gradients that are no numbers.
    """
    return _Loop(net, job, plan, worker, start, rows).run(read)


def prepared(net: SubjectDiffusion, config: TrainingConfig, worker: Worker) -> SubjectDiffusion:
    """`net` on the worker's device, with what is frozen stored and computed as the settings say."""
    if config.precision is Precision.BFLOAT16:
        net.cast_frozen(net.config.frozen_precision)
    net.to(worker.device)  # after the cast, so that the device never holds frozen weights in float32
    enable_recompute(net.unet, config.recompute)
    if worker.device.type == "cuda":
        net.unet.to(memory_format=torch.channels_last)
        if config.compile:
            net.unet.compile(dynamic=False)
    return net


def numbers_of(position: Position, config: TrainingConfig, worker: Worker) -> range:
    """The batches of the plan that a worker takes from `position` to the last step."""
    end = position.batches + (config.steps - position.step) * config.accumulation * worker.count
    return range(position.batches + worker.rank, end, worker.count)


def shares(plan: Batches, numbers: range, workers: int) -> dict[int, float]:
    """What the loss of each batch of a step is multiplied by, so that the gradient is the mean over all its images.

    Workers' gradients are averaged, and everybody knows the plan, so nobody need ask the others for their sizes. A row
    that is left out gives its share to the others of its batch.
    """
    sizes = {number: len(plan.batch(number).rows) for number in numbers}
    return {number: size * workers / sum(sizes.values()) for number, size in sizes.items()}


class _Loop:
    def __init__(
        self,
        net: SubjectDiffusion,
        job: TrainingJob,
        plan: Batches,
        worker: Worker,
        start: Path | None,
        rows: Rows | None,
    ) -> None:
        self.net, self.job, self.plan, self.worker = net, job, plan, worker
        self.config, self.out = job.training, Path(job.training.out)
        self.state = TrainingState(
            Replica(prepared(net, job.training, worker), job.training.strategy, worker), self.config
        )
        self.checkpoints = Checkpoints(self.out, self.config.keep, worker)
        self.position = Position()
        if start is not None:
            self.position = self.checkpoints.restore(start, self.state.tensors(), Identity.of(job, plan.stamp))
        self.metrics = MetricsLog(self.out, self.position.step) if worker.leads else None
        self.step = TrainingStep(self.state, self.config)
        self.stopwatch = Stopwatch(job.model, job.training.data, worker.device)
        self.samples: SampleGrids | None = None
        if rows is not None and self.config.samples.every and (worker.leads or self.state.replica.splits):
            self.samples = SampleGrids(rows, net, self.config)
        self.since_log, self.since_save = [0.0] * _SUMS, [0.0] * _SUMS
        self.skipped: Counter[str] = Counter()
        self.logged = self.position.step

    def run(self, read: Read) -> Position:
        if self.worker.leads:
            self.checkpoints.sweep()
            log.info("from step %d to %d, workers: %d", self.position.step, self.config.steps, self.worker.count)
        loaded = read(numbers_of(self.position, self.config, self.worker))
        try:
            while self.position.step < self.config.steps:
                self._do_step(loaded)
        finally:
            if self.metrics:
                self.metrics.close()
        return self.position

    def _do_step(self, loaded: Iterator[LoadedBatch]) -> None:
        first = self.position.batches
        numbers = range(first, first + self.config.accumulation * self.worker.count)
        weights = shares(self.plan, numbers, self.worker.count)
        micros = []
        for _ in range(self.config.accumulation):
            with self.stopwatch.waiting():
                one = next(loaded)
            micros.append(self._on_device(one, weights[one.number]))
        try:
            self.step(self.position.step, micros)
        except torch.OutOfMemoryError as error:
            raise TrainingError(
                f"{self.worker.device} has too little memory for a step: lower training.data.batch_size, or set "
                f"training.recompute=feed_forwards ({str(error).splitlines()[0]})"
            ) from error
        self.position = Position(self.position.step + 1, numbers.stop)
        done = self.position.step
        if done % self.config.log_every == 0 or done == self.config.steps:
            self._log(micros)
        if done % self.config.checkpoint_every == 0 or done == self.config.steps:
            self._save()
        if self.samples and self.samples.due(done):
            with self.stopwatch.stopped():
                self.samples(self.state, done, self.metrics)

    def _on_device(self, loaded: LoadedBatch, share: float) -> MicroBatch:
        subjects = self.plan.batch(loaded.number).subjects
        for row in loaded.skipped:
            self.skipped[row.reason] += 1
            log.warning("left out row %s: %s (%s)", row.key.hex(), row.reason, row.detail)
        self.stopwatch.computed(loaded.rows, subjects)
        batch = loaded.batch or blank_batch(self.net, self.config.data, subjects)
        return MicroBatch(
            number=loaded.number,
            batch=batch.to(self.worker.device),
            rows=loaded.rows,
            share=share if loaded.rows else 0.0,
            whole=loaded.rows == self.config.data.batch_size,
        )

    def _log(self, micros: list[MicroBatch]) -> None:
        self._read_sums()
        watch = self.step.watch
        probe = float(self.step.probed(micros[-1])) if self.config.identity_probe else None
        in_a_row, left_out, norm = torch.stack([watch.in_a_row, watch.left_out, watch.norm]).tolist()
        speed = self.stopwatch.speed(self.worker.count)
        values: dict[str, Any] = {
            "step": self.position.step,
            "epoch": self.plan.batch(self.position.batches).epoch,
            "batches": self.position.batches,
            **_means(self.since_log),
            "learning_rate": learning_rate(self.position.step - 1, self.config.optimizer, self.config.steps),
            "gradient_norm": norm if math.isfinite(norm) else None,
            "identity_probe": probe if probe is not None and math.isfinite(probe) else None,
            "images_per_s": speed.images_per_s,
            "stall": speed.stall,
            "tflops": speed.tflops,
            "mfu": speed.mfu,
            "seconds_per_step": speed.seconds / (self.position.step - self.logged),
            "skipped_rows": round(self.since_log[-1]),
            "steps_left_out": round(left_out),
            "gates": self.net.unet.gates() if self.job.model.use_adapter else {},
        }
        self.since_log, self.logged = [0.0] * _SUMS, self.position.step
        watch.left_out = torch.zeros_like(watch.left_out)
        if self.metrics:
            self.metrics.write(values)
            log.info(progress_line(values, self.config.steps))
        if in_a_row >= self.config.non_finite_limit:
            self._stop(round(in_a_row), micros)

    def _save(self) -> None:
        self._read_sums()
        loss = _means(self.since_save)["loss"]
        tensors = self.state.tensors()
        path = self.checkpoints.save(
            tensors, self.job, self.plan.stamp, self.position, math.inf if loss is None else loss
        )
        self.since_save = [0.0] * _SUMS
        if self.worker.leads:
            log.info("wrote %s", path)

    def _read_sums(self) -> None:
        """What all workers have summed up on their devices."""
        sums = self.step.watch.taken()
        skipped = sums.new_tensor([self.skipped.total()])
        self.skipped.clear()
        read = self.state.replica.total(torch.cat([sums, skipped])).tolist()
        self.since_log = [a + b for a, b in zip(self.since_log, read, strict=True)]
        self.since_save = [a + b for a, b in zip(self.since_save, read, strict=True)]

    def _stop(self, in_a_row: int, micros: list[MicroBatch]) -> None:
        folder = self.out / "non-finite"
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / f"step-{self.position.step:08d}-worker-{self.worker.rank}.pt"
        torch.save(
            [{"number": micro.number, "batch": micro.batch.to("cpu", non_blocking=False)} for micro in micros], path
        )
        raise Diverged(
            f"the last {in_a_row} steps up to step {self.position.step} gave gradients that are no numbers, and were "
            f"left out; the last of their batches are in {folder}. Go on from the last checkpoint with a lower "
            f"training.optimizer.learning_rate (--resume latest), or move it away to go on from the one before"
        )


_SUMS = len(WATCHED) + 2
"""Watched values, images, skipped rows."""


def _means(sums: list[float]) -> dict[str, float | None]:
    images = sums[len(WATCHED)]
    return {name: total / images if images else None for name, total in zip(WATCHED, sums, strict=False)}
