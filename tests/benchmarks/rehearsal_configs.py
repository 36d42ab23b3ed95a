"""Settings of the labelling and the training of a rehearsal: the defaults and the paper's preset, changed for a CPU."""

from collections.abc import Mapping
from typing import Any

from flows.experiment import Experiment
from infra.config import Config, load
from labeling.config import LabelingConfig
from miniature.world.serve import METADATA
from tests.benchmarks.rehearsal_settings import Rehearsal, Scale
from training.config import TrainingJob

STEPS = 2
"""Training steps before the job is resumed."""
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
"""Settings of a job of a few steps on a CPU; the paper's has 300,000 on GPUs."""
_SMALL_TRAINING = ("training.data.latent_downsampling=2", "training.data.subject_px=28")

_LABELING = {
    Scale.FULL: (
        "labeling.download.allow_private_hosts=true",  # photographs come from 127.0.0.1
        "labeling.caption.max_new_tokens=20",  # random weights never end a caption
        "labeling.segment.precision=float32",  # few CPUs multiply in bfloat16
        "labeling.workers.captions.batch_deadline_s=7200",
        "labeling.workers.detections.batch_deadline_s=7200",
        "labeling.workers.entities.batch_deadline_s=7200",
        "labeling.workers.entities.batch_size=4",  # the default, which setting another key of the table resets
    ),
    Scale.SMALL: (
        "labeling.workers.captions.count=1",
        "labeling.workers.detections.count=1",
        "labeling.workers.entities.count=1",
    ),
}

PLACES = frozenset(
    {
        "labeling.root",
        "labeling.urls",
        "labeling.caption.checkpoint",
        "labeling.detect.checkpoint",
        "labeling.segment.checkpoint",
        "model.base",
        "model.image_encoder",
        "training.out",
        "training.data.dataset",
    }
)
"""Settings that are folders of the rehearsal."""


def labeling_config(rehearsal: Rehearsal) -> LabelingConfig:
    """Return the settings with which the photographs are labelled."""
    base = None if rehearsal.scale is Scale.FULL else "demo"
    ours = (
        f"labeling.root={rehearsal.dataset}",
        f"labeling.urls={rehearsal.world / METADATA}",
        f"labeling.caption.checkpoint={rehearsal.labellers / 'blip2'}",
        f"labeling.detect.checkpoint={rehearsal.labellers / 'grounding_dino'}",
        f"labeling.segment.checkpoint={rehearsal.labellers / 'sam'}",
    )
    return load(Experiment, base, [*ours, *_LABELING[rehearsal.scale]]).labeling


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
    """Settings that are not those of `build` and of `train --config paper`, but for places: name, theirs, ours."""
    label, job = labeling_config(rehearsal), training_job(rehearsal, STEPS)
    usual = _by_name(labeling=LabelingConfig(root="out/sdd")) | _by_name(**dict(load(TrainingJob, "paper")))
    ours = _by_name(labeling=label) | _by_name(**dict(job))
    differ = [name for name in ours if name not in PLACES and usual.get(name) != ours[name]]
    return [(name, usual.get(name), ours[name]) for name in differ]


def _by_name(**tables: Config) -> dict[str, Any]:
    """Return settings by dotted name."""
    return dict(_flatten({table: config.model_dump(mode="json") for table, config in tables.items()}))


def _flatten(tree: Mapping[str, Any], prefix: str = "") -> list[tuple[str, Any]]:
    settings: list[tuple[str, Any]] = []
    for name, value in tree.items():
        settings += _flatten(value, f"{prefix}{name}.") if isinstance(value, dict) else [(prefix + name, value)]
    return settings
