"""A training job on the small model with data made up as it goes, as a process that a test can kill.

python -m tests.training_run FOLDER [--resume latest] [--set training.steps=3]
"""

import argparse
import json
import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from infra.logs import setup_logs
from model.prompt import Prompt
from model.subject_diffusion import SubjectDiffusion
from tests.small_model import IMAGE_PX, small_batch, small_config
from training.checkpoints import LATEST, Checkpoints
from training.config import TrainingConfig, TrainingJob
from training.data.config import DataConfig
from training.data.loader import LoadedBatch
from training.data.plan import PlannedBatch, PlannedRow
from training.data.sample import Sample
from training.errors import TrainingError
from training.loop import train
from training.parallel import Worker, this_worker
from training.samples import SampledRow

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


def made_up_rows(net: SubjectDiffusion) -> list[SampledRow]:
    """One with one subject, one with two."""
    rows = []
    for labels in LABELS:
        batch = small_batch(net.prompts, labels)
        prompt = net.prompts.tokenized(Prompt("a photo", labels))
        boxes, masks, pictures = batch.boxes[0], batch.masks[0], batch.subject_images[0].permute(0, 2, 3, 1)
        sample = Sample(prompt=prompt, boxes=boxes.numpy(), masks=masks.numpy(), subject_images=pictures.numpy())
        rows.append(SampledRow("a photo of " + " and ".join(labels), labels, sample))
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
    model = small_config(folder, frozen_precision="float32")
    return TrainingJob(model=model, training=TrainingConfig.model_validate(chosen | training))


def trained(
    job: TrainingJob, resume: bool = False, spoilt: Sequence[int] = (), worker: Worker | None = None
) -> SubjectDiffusion:
    """The network after the job."""
    torch.manual_seed(1)
    net = SubjectDiffusion.from_base(job.model)
    worker = worker or Worker()
    start = Checkpoints(Path(job.training.out), job.training.keep, worker).latest() if resume else None
    train(net, job, MadeUpPlan(), lambda numbers: read(net, numbers, spoilt), worker, start, lambda: made_up_rows(net))
    return net


def main() -> int:
    """The exit code: 0, or 2 where training stopped with a message."""
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path)
    parser.add_argument("--resume", choices=[LATEST])
    parser.add_argument("--set", action="append", default=[])
    parser.add_argument("--rank", type=int, help="of a group of workers that meet in FOLDER/meeting")
    parser.add_argument("--count", type=int, default=1)
    given = parser.parse_args()
    torch.set_num_threads(1)
    setup_logs()
    job = small_job(given.folder)
    settings = job.model_dump(mode="json")["training"]
    for override in given.set:
        name, _, value = override.partition("=")
        read_value = json.loads if isinstance(settings[name], dict) else type(settings[name])
        settings[name] = read_value(value)
    worker = Worker()
    if given.rank is not None:
        meeting = f"file://{given.folder.absolute()}/meeting"
        torch.distributed.init_process_group("gloo", meeting, rank=given.rank, world_size=given.count)
        worker = this_worker(gpu=False)
    job = TrainingJob.model_validate({"model": job.model, "training": settings})
    try:
        trained(job, given.resume is not None, worker=worker)
    except TrainingError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
