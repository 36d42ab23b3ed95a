"""A training job on the small model with data made up as it goes."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch

from model.inputs.prompt import Prompt
from model.subject_diffusion import SubjectDiffusion
from tests.small_model import IMAGE_PX, small_batch, two_level_config
from training.checkpoints.store import Checkpoints
from training.config import TrainingConfig, TrainingJob
from training.data.config import DataConfig
from training.data.loader import LoadedBatch
from training.data.plan import PlannedBatch, PlannedRow
from training.data.sample import Sample
from training.distributed.parallel import Worker
from training.loop import train
from training.monitoring.evaluation import Evaluations
from training.monitoring.samples import SampleRow

LABELS = (["dog"], ["dog", "cat"])
ROWS, FULL = 103, 4
"""Of an epoch, and of a batch but the epoch's last."""


class MadeUpPlan:
    """103 rows an epoch, in order; every third batch has two subjects."""

    stamp = "made-up"
    batches_per_epoch = -(-ROWS // FULL)

    def batch(self, number: int) -> PlannedBatch:
        epoch, index = divmod(number, self.batches_per_epoch)
        rows = range(index * FULL, min(ROWS, index * FULL + FULL))
        return PlannedBatch(number, epoch, tuple(PlannedRow("made-up", 0, row) for row in rows), 1 + (number % 3 == 2))


def read(net: SubjectDiffusion, numbers: Iterable[int], spoilt: Sequence[int] = ()) -> Iterator[LoadedBatch]:
    """Batches whose pictures follow from their numbers; those of `spoilt` numbers have boxes that are no numbers."""
    plan = MadeUpPlan()
    for number in numbers:
        planned = plan.batch(number)
        batch = small_batch(net.prompts, *[LABELS[planned.subjects - 1]] * len(planned.rows), seed=number)
        if number in spoilt:
            batch = replace(batch, boxes=torch.full_like(batch.boxes, torch.nan))
        keys = tuple(f"{planned.epoch}/{row.row}".encode() for row in planned.rows)
        yield LoadedBatch(replace(batch, full=True), number, keys, ())


def made_up_rows(net: SubjectDiffusion) -> list[SampleRow]:
    """One with one subject, one with two."""
    rows = []
    for labels in LABELS:
        batch = small_batch(net.prompts, labels)
        prompt = net.prompts.tokenize(Prompt("a photo", labels))
        boxes, masks, pictures = batch.boxes[0], batch.masks[0], batch.subject_images[0].permute(0, 2, 3, 1)
        sample = Sample(prompt=prompt, boxes=boxes.numpy(), masks=masks.numpy(), subject_images=pictures.numpy())
        rows.append(SampleRow("a photo of " + " and ".join(labels), labels, sample))
    return rows


def small_job(folder: Path, **training: Any) -> TrainingJob:
    """A job on the small model, in float32 on the CPU, whose output is in `folder`/run."""
    data = DataConfig(
        dataset="nowhere", image_px=IMAGE_PX, latent_downsampling=2, subject_px=28, batch_size=FULL, max_subjects=2
    )
    chosen = {
        "data": data,
        "out": str(folder / "run"),
        "steps": 20,
        "precision": "float32",
        "gpu": False,
        "optimizer": {"learning_rate": 1e-3, "warmup_steps": 5},
        "log_every": 5,
        "checkpoint_every": 5,
        "identity_probe": False,
        "samples": {"every": 0},
    }
    model = two_level_config(folder / "two_levels", frozen_precision="float32")
    return TrainingJob(model=model, training=TrainingConfig.model_validate(chosen | training))


def trained(
    job: TrainingJob,
    resume: bool = False,
    spoilt: Sequence[int] = (),
    worker: Worker | None = None,
    evaluations: Evaluations | None = None,
) -> SubjectDiffusion:
    """The network after the job."""
    torch.manual_seed(1)
    net = SubjectDiffusion.from_base(job.model)
    worker = worker or Worker()
    start = Checkpoints(Path(job.training.out), job.training.keep, worker).latest() if resume else None
    batches, rows = partial(read, net, spoilt=spoilt), partial(made_up_rows, net)
    train(net, job, MadeUpPlan(), batches, worker, start, rows, evaluations)
    return net
