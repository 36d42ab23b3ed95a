"""Samples while a job trains: what the running mean of the weights makes of a few subjects of the dataset.

    OUT/samples/step-00005000.png    one line for each row of the dataset

They read the job's state and leave it as it is, to the bit: with and without them a job gives the same weights.
"""

import logging
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import cached_property, partial
from itertools import chain, islice, zip_longest
from pathlib import Path

import torch
from PIL import Image
from torch.compiler import set_stance

from infra.precision import Precision
from infra.storage import publish, storage_path
from model.config import ModelConfig
from model.errors import ModelError
from model.inputs.batch import SubjectBatch
from model.inputs.prompt import Prompt
from model.inputs.subject import SubjectPictures
from model.sampling.denoising import make_scheduler
from model.sampling.generation import encode_conditions, generate_images, subject_denoiser
from model.subject_diffusion import SubjectDiffusion
from training.checkpoints.store import reason
from training.config import TrainingConfig
from training.data.config import AugmentationConfig
from training.data.errors import PoisonedRow, unless_poisoned
from training.data.pictures import PictureMaker
from training.data.plan import Plan, PlannedRow
from training.data.rows import RowReader, TrainingRow
from training.data.sample import Sample, SampleMaker
from training.errors import TrainingError
from training.monitoring.grid import Line, grid
from training.monitoring.metrics import MetricsLog
from training.parallel import Replica
from training.state import TrainingState

log = logging.getLogger(__name__)
_BATCHES = 64
"""Of the plan, that are looked through for rows with each number of subjects."""
_AS_IT_IS = AugmentationConfig(flip=0.0, rotation_deg=0.0, perspective=0.0, perspective_chance=0.0)


@dataclass(frozen=True)
class SampledRow:
    """A row of the dataset whose subjects are sampled."""

    caption: str
    labels: Sequence[str]
    sample: Sample


Rows = Callable[[], Sequence[SampledRow]]


class SampleGrids:
    """Draws the grids of a job.

    Args:
        rows: reads the rows, once the first grid is due; the same on all workers.

    Raises:
        TrainingError: there is no scheduler of the name that is set, or none for so many steps.
    """

    def __init__(self, rows: Rows, net: SubjectDiffusion, config: TrainingConfig) -> None:
        self._read, self._net, self._config = rows, net, config
        self._sampling = config.samples.sampling
        try:
            make_scheduler(self._sampling.scheduler, net.scheduler).set_timesteps(self._sampling.steps)
        except ValueError as error:
            raise TrainingError(f"training.samples.{error}") from error

    def due(self, step: int) -> bool:
        """Whether there is one after `step` steps."""
        return step % self._config.samples.every == 0 or step == self._config.steps

    def __call__(self, state: TrainingState, step: int, metrics: MetricsLog | None) -> None:
        """Draw the grid of step `step`, write it and show it in TensorBoard; what hinders that is logged.

        Args:
            metrics: None on a worker that only takes part.
        """
        try:
            sheet = self._sheet(state)
            if metrics is not None:
                path = storage_path(Path(self._config.out) / "samples" / f"step-{step:08d}.png")
                publish(path, lambda file: sheet.save(file, "PNG"), replace=True)
                metrics.add_picture("samples", sheet, step)
                log.info("wrote %s", path)
        except (OSError, RuntimeError, TrainingError, ModelError) as error:
            log.warning("no samples at step %d, training goes on without: %s", step, reason(error))

    @cached_property
    def _rows(self) -> Sequence[SampledRow]:
        if rows := self._read():
            return rows
        raise TrainingError("no row among the first of the dataset can be sampled")

    def _rows_of_all(self, replica: Replica) -> Sequence[SampledRow]:
        rows: Sequence[SampledRow] = ()
        try:
            rows = self._rows
        finally:
            together = replica.agree(bool(rows))
        if not together:
            raise TrainingError("another worker could not read the rows")
        return rows

    def _sheet(self, state: TrainingState) -> Image.Image:
        rows, device = self._rows_of_all(state.replica), state.replica.worker.device
        with ExitStack() as stack:
            stack.enter_context(torch.random.fork_rng([device] if device.type == "cuda" else []))
            stack.enter_context(torch.no_grad())
            stack.enter_context(state.ema.in_weights())
            stack.enter_context(set_stance("force_eager"))  # no graphs for batches that are met once in an hour
            fast = self._config.precision is Precision.BFLOAT16
            stack.enter_context(torch.autocast(device.type, torch.bfloat16, enabled=fast))
            stack.enter_context(state.replica.gathered())
            images = [self._images(row, seed, device) for seed, row in enumerate(rows)]
        headings = ["its caption", *self._config.samples.prompts]
        return grid(headings, [_line(row, of_row) for row, of_row in zip(rows, images, strict=True)])

    def _images(self, row: SampledRow, seed: int, device: torch.device) -> list[Image.Image]:
        """One for each prompt, all from the same noise."""
        texts = [row.caption, *(f"{_named(row.labels)} {where}" for where in self._config.samples.prompts)]
        batch = _batch(self._net, row, texts).to(device, non_blocking=False)
        conditions, empty = encode_conditions(self._net, batch)
        denoise = subject_denoiser(self._net, conditions, empty, self._sampling.guidance.subject_coefficients())
        return generate_images(self._net, denoise, self._sampling, [seed] * len(texts), self._net.latent_side)


def sampled_rows(plan: Plan, config: TrainingConfig, model: ModelConfig, net: SubjectDiffusion) -> list[SampledRow]:
    """The first rows of the plan's first epoch, of each number of subjects in turn; poisoned ones are passed over.

    Raises:
        DatasetError: a shard is gone, damaged, or was made anew since the plan was read.
    """
    data = config.data.model_copy(update={"augmentation": _AS_IT_IS})
    mean = net.image_encoder.mean.flatten().tolist()
    pictures = SubjectPictures(model.subject, data.subject_px, mean, training=False)
    draws, make = PictureMaker(data, pictures, plan.seed), SampleMaker(data, model, net.prompts, pictures, plan.seed)
    reader = RowReader(data.dataset, {shard.name: shard.stamp for shard in plan.shards}, data.row_groups_mb << 20)

    def sampled(row: TrainingRow, subjects: int) -> SampledRow:
        labels = [row.entities[index].label for index in draws.drawn(row, 0, subjects).subjects]
        return SampledRow(row.caption, labels, make(row, 0, subjects))

    made = (unless_poisoned(partial(sampled, reader.row(at), subjects)) for subjects, at in _in_turn(plan))
    good = islice((row for row in made if not isinstance(row, PoisonedRow)), config.samples.rows)
    return sorted(good, key=lambda row: len(row.labels))


def _in_turn(plan: Plan) -> Iterator[tuple[int, PlannedRow]]:
    """Rows with one subject, with two and so on by turns, each with its number of subjects."""
    rows: dict[int, list[tuple[int, PlannedRow]]] = defaultdict(list)
    for number in range(min(_BATCHES, plan.batches_per_epoch)):
        planned = plan.batch(number)
        rows[planned.subjects] += [(planned.subjects, row) for row in planned.rows]
    turns = zip_longest(*(rows[subjects] for subjects in sorted(rows)))
    return (row for row in chain.from_iterable(turns) if row is not None)


def _batch(net: SubjectDiffusion, row: SampledRow, texts: Sequence[str]) -> SubjectBatch:
    """The row's subjects under each of `texts`, on the host."""
    sample, images = row.sample, len(texts)
    assert sample.subject_images is not None
    boxes = torch.from_numpy(sample.boxes).repeat(images, 1, 1)
    return SubjectBatch(
        prompts=net.prompts([Prompt(text, row.labels) for text in texts]),
        boxes=boxes,
        masks=torch.from_numpy(sample.masks).repeat(images, 1, 1, 1),
        present=torch.ones(boxes.shape[:2], dtype=torch.bool),
        subject_images=torch.from_numpy(sample.subject_images).permute(0, 3, 1, 2).repeat(images, 1, 1, 1, 1),
        full=True,
    )


def _named(labels: Sequence[str]) -> str:
    return " and ".join(f"the {label}" for label in labels)


def _line(row: SampledRow, images: Sequence[Image.Image]) -> Line:
    assert row.sample.subject_images is not None
    return Line(row.sample.subject_images, row.labels, row.caption, images)
