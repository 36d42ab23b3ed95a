"""The training job of a rehearsal: the paper's, for some steps on a CPU."""

from collections.abc import Mapping
from typing import Any

from infra.config import load
from tests.benchmarks.rehearsal_settings import Rehearsal, Scale
from training.config import TrainingJob

STEPS = 2
"""Before it is resumed for one more."""
_TRAINING = (
    "model.frozen_precision=float32",
    "training.precision=float32",
    "training.workers=1",
    "training.gpu=false",
    f"training.checkpoint_every={STEPS}",
    "training.keep=1",
    "training.log_every=1",
    "training.identity_probe=false",
    "training.samples.every=0",
    "training.data.batch_size=1",
    "training.data.max_subjects=2",
    "training.data.streams=1",
    "training.data.processes=0",
)
"""Of a job of some steps on a CPU, where the paper's run is one of 300,000 on GPUs."""
_SMALL_TRAINING = ("training.data.latent_downsampling=2", "training.data.subject_px=28")


def training_job(rehearsal: Rehearsal, steps: int, cached: bool = False) -> TrainingJob:
    """The paper's job for some steps on this machine."""
    out = rehearsal.training_cached if cached else rehearsal.training
    ours = (
        f"model.base={rehearsal.networks / 'base'}",
        f"model.image_encoder={rehearsal.networks / 'image_encoder'}",
        f"training.out={out}",
        f"training.steps={steps}",
        f"training.data.dataset={rehearsal.truth}",
        f"training.data.image_px={rehearsal.image_px}",
    )
    with_cache = ("training.data.cache.features=true",) if cached else ()
    small = _SMALL_TRAINING if rehearsal.scale is Scale.SMALL else ()
    return load(TrainingJob, "paper", [*ours, *_TRAINING, *small, *with_cache])


def differences(rehearsal: Rehearsal) -> list[tuple[str, Any, Any]]:
    """Settings of the job, but for places, that are not the paper's: name, the paper's, the rehearsal's."""
    jobs = (load(TrainingJob, "paper"), training_job(rehearsal, STEPS))
    paper, ours = (dict(_flat(job.model_dump(mode="json"))) for job in jobs)
    places = ("model.base", "model.image_encoder", "training.out", "training.data.dataset")
    differ = [name for name in ours if name not in places and paper.get(name) != ours[name]]
    return [(name, paper.get(name), ours[name]) for name in differ]


def _flat(tree: Mapping[str, Any], prefix: str = "") -> list[tuple[str, Any]]:
    found: list[tuple[str, Any]] = []
    for name, value in tree.items():
        found += _flat(value, f"{prefix}{name}.") if isinstance(value, dict) else [(prefix + name, value)]
    return found
