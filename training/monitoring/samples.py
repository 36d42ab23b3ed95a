"""Sample images of a few subjects of the dataset, drawn with the moving average of the weights while a job trains.

    OUT/samples/step-00005000.png    one line for each row of the dataset

Sampling does not change the job's state: with and without samples a job gives the same weights, bit for bit.
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
from model.sampling.generation import encode_conditions, generate_images, subject_denoiser
from model.sampling.schedulers import make_scheduler
from model.subject_diffusion import SubjectDiffusion
from training.checkpoints.store import error_line
from training.config import TrainingConfig
from training.data.config import AugmentationConfig
from training.data.errors import PoisonedRow, catch_poisoned
from training.data.pictures import PictureMaker
from training.data.plan import Plan, PlannedRow
from training.data.rows import RowReader, TrainingRow
from training.data.sample import Sample, SampleMaker
from training.distributed.parallel import Replica
from training.errors import TrainingError
from training.monitoring.grid import Line, draw_grid
from training.monitoring.metrics import MetricsLog
from training.optimization.state import TrainingState

log = logging.getLogger(__name__)
_BATCHES = 64
"""Number of batches at the start of the plan that are searched for rows with each number of subjects."""
_NO_AUGMENTATION = AugmentationConfig(flip=0.0, rotation_deg=0.0, perspective=0.0, perspective_chance=0.0)


@dataclass(frozen=True)
class SampleRow:
    """A row of the dataset whose subjects appear in the sample images."""

    caption: str
    labels: Sequence[str]
    sample: Sample


ReadSampleRows = Callable[[], Sequence[SampleRow]]


class SampleGrids:
    """Draws the sample grids of a job.

    Args:
        rows: reads the rows when the first grid is due; all workers read the same.

    Raises:
        TrainingError: the scheduler in the settings does not exist, or does not support so many steps.
    """

    def __init__(self, rows: ReadSampleRows, net: SubjectDiffusion, config: TrainingConfig) -> None:
        self._read, self._net, self._config = rows, net, config
        self._sampling = config.samples.sampling
        try:
            make_scheduler(self._sampling.scheduler, net.scheduler).set_timesteps(self._sampling.steps)
        except ValueError as error:
            raise TrainingError(f"training.samples.{error}") from error

    def is_due(self, step: int) -> bool:
        """Return whether a grid is due after `step` steps."""
        return step % self._config.samples.every == 0 or step == self._config.steps

    def __call__(self, state: TrainingState, step: int, metrics: MetricsLog | None) -> None:
        """Draw the grid of step `step`, write it and show it in TensorBoard. Errors are logged, not raised.

        Args:
            metrics: log that shows the grid; None on workers that only help to compute it.
        """
        try:
            sheet = self._draw(state)
            if metrics is not None:
                path = storage_path(Path(self._config.out) / "samples" / f"step-{step:08d}.png")
                publish(path, lambda file: sheet.save(file, "PNG"), replace=True)
                metrics.add_picture("samples", sheet, step)
                log.info("wrote %s", path)
        except (OSError, RuntimeError, TrainingError, ModelError) as error:
            log.warning("no samples at step %d, training continues: %s", step, error_line(error))

    @cached_property
    def _rows(self) -> Sequence[SampleRow]:
        if rows := self._read():
            return rows
        raise TrainingError("none of the first rows of the dataset can be used for samples")

    def _rows_on_all_workers(self, replica: Replica) -> Sequence[SampleRow]:
        rows: Sequence[SampleRow] = ()
        try:
            rows = self._rows
        finally:
            all_ready = replica.all_ready(bool(rows))
        if not all_ready:
            raise TrainingError("another worker could not read the rows")
        return rows

    def _draw(self, state: TrainingState) -> Image.Image:
        rows, device = self._rows_on_all_workers(state.replica), state.replica.worker.device
        with ExitStack() as stack:
            stack.enter_context(torch.random.fork_rng([device] if device.type == "cuda" else []))
            stack.enter_context(torch.no_grad())
            stack.enter_context(state.ema.use_as_weights())
            stack.enter_context(set_stance("force_eager"))  # rare batches are not worth compiled graphs of their own
            fast = self._config.precision is Precision.BFLOAT16
            stack.enter_context(torch.autocast(device.type, torch.bfloat16, enabled=fast))
            stack.enter_context(state.replica.unshard())
            images = [self._images(row, seed, device) for seed, row in enumerate(rows)]
        headings = ["its caption", *self._config.samples.prompts]
        return draw_grid(headings, [_line(row, of_row) for row, of_row in zip(rows, images, strict=True)])

    def _images(self, row: SampleRow, seed: int, device: torch.device) -> list[Image.Image]:
        """Sample an image for each prompt, all from the same noise."""
        texts = [row.caption, *(f"{_join_labels(row.labels)} {ending}" for ending in self._config.samples.prompts)]
        batch = _batch(self._net, row, texts).to(device, non_blocking=False)
        conditions, empty = encode_conditions(self._net, batch)
        denoise = subject_denoiser(self._net, conditions, empty, self._sampling.guidance.subject_coefficients())
        return generate_images(self._net, denoise, self._sampling, [seed] * len(texts), self._net.latent_side)


def read_sample_rows(plan: Plan, config: TrainingConfig, model: ModelConfig, net: SubjectDiffusion) -> list[SampleRow]:
    """Read the first usable rows of the plan's first epoch, alternating between numbers of subjects.

    Raises:
        DatasetError: a shard is missing, damaged, or was rewritten since the plan was read.
    """
    data = config.data.model_copy(update={"augmentation": _NO_AUGMENTATION})
    mean = net.image_encoder.mean.flatten().tolist()
    pictures = SubjectPictures(model.subject, data.subject_px, mean, training=False)
    draws, make = PictureMaker(data, pictures, plan.seed), SampleMaker(data, model, net.prompts, pictures, plan.seed)
    reader = RowReader(data.dataset, {shard.name: shard.stamp for shard in plan.shards}, data.row_groups_mb << 20)

    def sample_row(row: TrainingRow, subjects: int) -> SampleRow:
        labels = [row.entities[index].label for index in draws.draw(row, 0, subjects).subjects]
        return SampleRow(row.caption, labels, make(row, 0, subjects))

    results = (catch_poisoned(partial(sample_row, reader.row(at), subjects)) for subjects, at in _alternate(plan))
    usable = islice((row for row in results if not isinstance(row, PoisonedRow)), config.samples.rows)
    return sorted(usable, key=lambda row: len(row.labels))


def _alternate(plan: Plan) -> Iterator[tuple[int, PlannedRow]]:
    """Yield rows with their numbers of subjects: one with one subject, one with two and so on, then again."""
    rows: dict[int, list[tuple[int, PlannedRow]]] = defaultdict(list)
    for number in range(min(_BATCHES, plan.batches_per_epoch)):
        planned = plan.batch(number)
        rows[planned.subjects] += [(planned.subjects, row) for row in planned.rows]
    turns = zip_longest(*(rows[subjects] for subjects in sorted(rows)))
    return (row for row in chain.from_iterable(turns) if row is not None)


def _batch(net: SubjectDiffusion, row: SampleRow, texts: Sequence[str]) -> SubjectBatch:
    """Return a batch on the host: the row's subjects with each of `texts`."""
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


def _join_labels(labels: Sequence[str]) -> str:
    return " and ".join(f"the {label}" for label in labels)


def _line(row: SampleRow, images: Sequence[Image.Image]) -> Line:
    assert row.sample.subject_images is not None
    return Line(row.sample.subject_images, row.labels, row.caption, images)
