"""The training loop of one worker, from the first step of a job to the last, on a CPU or a GPU.

A job's position is the number of batches that it has consumed: worker r of W takes the batches position + r,
position + r + W, … of the plan. All random numbers follow from the numbers of the batches, so a resumed job computes
the same as one that never stopped.
"""

import logging
import math
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Protocol

import torch
from torch import nn

from infra.precision import Precision
from model.cost.recompute import enable_recompute
from model.subject_diffusion import SubjectDiffusion
from training.blank import blank_batch
from training.checkpoints.store import Checkpoints, RunIdentity
from training.config import TrainingConfig, TrainingJob
from training.data.loader import LoadedBatch
from training.data.plan import PlannedBatch
from training.distributed.parallel import Replica, Worker
from training.errors import Diverged, TrainingError
from training.monitoring.evaluation import Evaluations, Scores
from training.monitoring.metrics import Metrics, MetricsLog, progress_line
from training.monitoring.samples import ReadSampleRows, SampleGrids
from training.monitoring.throughput import Stopwatch
from training.optimization.optim import learning_rate
from training.optimization.state import Position, TrainingState
from training.optimization.step import LossSums, MicroBatch, TrainingStep

log = logging.getLogger(__name__)
ReadBatches = Callable[[Iterable[int]], Iterator[LoadedBatch]]
"""Loads the batches of the given numbers, in that order."""


class BatchPlan(Protocol):
    """An endless sequence of planned batches."""

    @property
    def stamp(self) -> str:
        """Hash that changes with the data and with their order."""

    def batch(self, number: int) -> PlannedBatch:
        """Return the rows of batch `number`."""


def train(
    net: SubjectDiffusion,
    job: TrainingJob,
    plan: BatchPlan,
    read: ReadBatches,
    worker: Worker,
    start: Path | None = None,
    rows: ReadSampleRows | None = None,
    evaluations: Evaluations | None = None,
) -> Position:
    """Train `net` to the job's last step and write checkpoints, metrics and samples to `training.out`.

    Args:
        net: changed in place.
        read: called once, with the numbers of this worker's batches.
        start: checkpoint to resume from; None starts at step 0.
        rows: reads the rows to sample images for; None samples none.
        evaluations: evaluates the weights at the steps of `training.evaluation`; None evaluates none.

    Raises:
        CheckpointError: `start` does not fit this job, or a checkpoint cannot be written.
        Diverged: too many steps in a row gave non-finite gradients.
    """
    return _Loop(net, job, plan, worker, start, rows, evaluations).run(read)


def prepare_network(net: SubjectDiffusion, config: TrainingConfig, worker: Worker) -> SubjectDiffusion:
    """Move `net` to the worker's device and apply the settings for precision, recomputation and compilation."""
    if config.precision is Precision.BFLOAT16:
        net.cast_frozen(net.config.frozen_precision)
    net.to(worker.device)  # after the cast, because the device may have no room for frozen weights in float32
    enable_recompute(net.unet, config.recompute)
    if worker.device.type == "cuda":
        net.unet.to(memory_format=torch.channels_last)
        if config.compile:
            compile_for_each_number(net.unet, config.data.max_subjects)
    return net


def compile_for_each_number(
    unet: nn.Module, max_subjects: int, backend: str | Callable[..., object] = "inductor"
) -> None:
    """Compile `unet` to one graph for each number of subjects; by default torch makes at most eight."""
    limits = torch._dynamo.config
    limits.recompile_limit = max(limits.recompile_limit, max_subjects)
    unet.compile(backend=backend, dynamic=False)


def batch_numbers(position: Position, config: TrainingConfig, worker: Worker) -> range:
    """Return the numbers of the batches that a worker takes from `position` to the last step."""
    end = position.batches + (config.steps - position.step) * config.accumulation * worker.count
    return range(position.batches + worker.rank, end, worker.count)


def loss_shares(plan: BatchPlan, numbers: range, workers: int) -> dict[int, float]:
    """Return the factor for the loss of each batch of a step that makes the gradient the mean over all its images.

    Workers' gradients are averaged. Each worker knows the plan and hence the sizes of the others' batches, without
    communication. If a row of a batch is skipped, the other rows of that batch share its weight.
    """
    sizes = {number: len(plan.batch(number).rows) for number in numbers}
    return {number: size * workers / sum(sizes.values()) for number, size in sizes.items()}


class _Loop:
    """State of one worker's loop, changed step by step."""

    def __init__(
        self,
        net: SubjectDiffusion,
        job: TrainingJob,
        plan: BatchPlan,
        worker: Worker,
        start: Path | None,
        rows: ReadSampleRows | None,
        evaluations: Evaluations | None,
    ) -> None:
        self.net, self.job, self.plan, self.worker = net, job, plan, worker
        self.config, self.out = job.training, Path(job.training.out)
        self.state = TrainingState(
            Replica(prepare_network(net, job.training, worker), job.training.strategy, worker), self.config
        )
        evaluation = self.config.evaluation if evaluations else None
        self.evaluations = evaluations
        self.scores: Scores = {}
        self.checkpoints = Checkpoints(self.out, self.config.keep, worker, evaluation)
        self.position = Position()
        if start is not None:
            self.position = self.checkpoints.restore(start, self.state.tensors(), RunIdentity.of(job, plan.stamp))
        self.metrics = MetricsLog(self.out, self.position.step) if worker.is_leader else None
        self.step = TrainingStep(self.state, self.config)
        self.stopwatch = Stopwatch(job.model, job.training.data, worker.device)
        self.samples: SampleGrids | None = None
        if rows is not None and self.config.samples.every and (worker.is_leader or self.state.replica.is_sharded):
            self.samples = SampleGrids(rows, net, self.config)
        self.since_log, self.since_save = LossSums(), LossSums()
        self.skipped: Counter[str] = Counter()
        self.logged_step = self.position.step

    def run(self, read: ReadBatches) -> Position:
        if self.worker.is_leader:
            self.checkpoints.sweep()
            log.info("from step %d to %d, workers: %d", self.position.step, self.config.steps, self.worker.count)
        loaded = read(batch_numbers(self.position, self.config, self.worker))
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
        weights = loss_shares(self.plan, numbers, self.worker.count)
        micros = []
        for _ in range(self.config.accumulation):
            with self.stopwatch.measure_wait():
                one = next(loaded)
            micros.append(self._micro_batch(one, weights[one.number]))
        try:
            self.step(self.position.step, micros)
        except torch.OutOfMemoryError as error:
            raise TrainingError(
                f"{self.worker.device} has too little memory for a step ({str(error).splitlines()[0]}). Lower "
                "training.data.batch_size, or set training.recompute=feed_forwards"
            ) from error
        self.position = Position(self.position.step + 1, numbers.stop)
        done = self.position.step
        evaluated = self._evaluate(done)
        if evaluated or done % self.config.log_every == 0 or done == self.config.steps:
            self._log(micros)
        if evaluated or done % self.config.checkpoint_every == 0 or done == self.config.steps:
            self._save()
        if self.samples and self.samples.is_due(done):
            with self.stopwatch.pause():
                self.samples(self.state, done, self.metrics)

    def _micro_batch(self, loaded: LoadedBatch, share: float) -> MicroBatch:
        subjects = self.plan.batch(loaded.number).subjects
        for row in loaded.skipped:
            self.skipped[row.reason] += 1
            log.warning("skipped row %s: %s (%s)", row.key.hex(), row.reason, row.detail)
        self.stopwatch.count_batch(loaded.rows, subjects)
        batch = loaded.batch or blank_batch(self.net, self.config.data, subjects)
        return MicroBatch(
            number=loaded.number,
            batch=batch.to(self.worker.device),
            rows=loaded.rows,
            share=share if loaded.rows else 0.0,
            whole=loaded.rows == self.config.data.batch_size,
        )

    def _evaluate(self, done: int) -> bool:
        """Evaluate the weights if an evaluation is due after `done` steps, and return whether it was."""
        self.scores = {}
        if self.evaluations is None or not self.evaluations.is_due(done):
            return False
        with self.stopwatch.pause():
            self.scores = self.evaluations(self.state, done)
        return True

    def _log(self, micros: list[MicroBatch]) -> None:
        self._collect_sums()
        monitor = self.step.monitor
        probe = float(self.step.probe(micros[-1])) if self.config.identity_probe else None
        in_a_row, non_finite, norm = torch.stack(
            [monitor.non_finite_in_a_row, monitor.non_finite_steps, monitor.norm]
        ).tolist()
        speed = self.stopwatch.speed(self.worker.count)
        means = self.since_log.means()
        values: Metrics = {
            "step": self.position.step,
            "epoch": self.plan.batch(self.position.batches).epoch,
            "batches": self.position.batches,
            "loss": means["loss"],
            "denoising": means["denoising"],
            "L_attn": means["L_attn"],
            "attention_in_mask": means["attention_in_mask"],
            "learning_rate": learning_rate(self.position.step - 1, self.config.optimizer, self.config.steps),
            "gradient_norm": norm if math.isfinite(norm) else None,
            "identity_probe": probe if probe is not None and math.isfinite(probe) else None,
            "images_per_s": speed.images_per_s,
            "stall": speed.stall,
            "tflops": speed.tflops,
            "mfu": speed.mfu,
            "seconds_per_step": speed.seconds / (self.position.step - self.logged_step),
            "skipped_rows": round(self.since_log.skipped_rows),
            "steps_left_out": round(non_finite),
            "gates": self.net.unet.gates() if self.job.model.use_adapter else {},
            "evaluation": self.scores,
            "failed_evaluations": self.evaluations.take_failures() if self.evaluations else 0,
        }
        self.since_log, self.logged_step = LossSums(), self.position.step
        monitor.non_finite_steps = torch.zeros_like(monitor.non_finite_steps)
        if self.metrics:
            self.metrics.write(values)
            log.info(progress_line(values, self.config.steps))
        if in_a_row >= self.config.non_finite_limit:
            self._raise_diverged(round(in_a_row), micros)

    def _save(self) -> None:
        self._collect_sums()
        loss = self.since_save.means()["loss"]
        tensors = self.state.tensors()
        path = self.checkpoints.save(
            tensors, self.job, self.plan.stamp, self.position, math.inf if loss is None else loss, self.scores
        )
        self.since_save = LossSums()
        if self.worker.is_leader:
            log.info("wrote %s", path)

    def _collect_sums(self) -> None:
        """Add the sums of all workers' devices to those since the last log line and the last checkpoint."""
        mine = self.step.monitor.take_sums(self.skipped.total())
        self.skipped.clear()
        sums = LossSums(*self.state.replica.sum_over_workers(mine).tolist())
        self.since_log, self.since_save = self.since_log.plus(sums), self.since_save.plus(sums)

    def _raise_diverged(self, in_a_row: int, micros: list[MicroBatch]) -> None:
        folder = self.out / "non-finite"
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / f"step-{self.position.step:08d}-worker-{self.worker.rank}.pt"
        torch.save(
            [{"number": micro.number, "batch": micro.batch.to("cpu", non_blocking=False)} for micro in micros], path
        )
        raise Diverged(
            f"the last {in_a_row} steps up to step {self.position.step} gave non-finite gradients and were skipped; "
            f"the batches of the last one are in {folder}. Resume from the last checkpoint with a lower "
            f"training.optimizer.learning_rate (--resume latest), or move it away to resume from the one before"
        )
