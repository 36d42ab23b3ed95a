"""Finds the cache of a job, by a hash of the settings and weights that the cache depends on."""

import hashlib
import json
import logging
from collections.abc import Mapping

from torch import nn

from infra.precision import Precision
from model.config import SubjectConfig
from model.subject_diffusion import SubjectDiffusion
from training.config import TrainingJob
from training.data.cached import Cache, verify_cache
from training.data.config import AugmentationConfig, CutoutResampling
from training.data.plan import Plan

log = logging.getLogger(__name__)
FORMAT = 1
"""Part of every stamp. Increase it when the code that draws pictures or the content of the files changes."""


def open_cache(job: TrainingJob, plan: Plan, net: SubjectDiffusion) -> Cache | None:
    """Return the cache that the job trains on; None where the job encodes in each step.

    Args:
        net: network with its frozen weights as loaded, before any cast.

    Raises:
        CacheError: a file is missing, or belongs to another dataset, other settings or other weights.
    """
    data = job.training.data
    if data.cache is None:
        return None
    cache = verify_cache(data.dataset, data.cache, plan, cache_identity(job, net))
    log.info("training on the cache %r, views: %d", data.cache.name, data.cache.views)
    return cache


def cache_identity(job: TrainingJob, net: SubjectDiffusion) -> str:
    """Return 12 hex digits that change with the settings and weights that the cache depends on, except the seed."""
    data, precision = job.training.data, job.training.precision
    assert data.cache is not None
    inputs: dict[str, object] = {
        "format": FORMAT,
        "image_px": data.image_px,
        "max_subjects": data.max_subjects,
        "precision": [precision, job.model.frozen_precision if precision is Precision.BFLOAT16 else precision],
        "vae": _weights_id(net.vae, {name: value for name, value in net.vae.config.items() if name[0] != "_"}),
    }
    if data.cache.features:
        inputs |= {
            "subject_px": data.subject_px,
            "augmentation": _augmentation_settings(data.augmentation),
            "subject": _subject_settings(job.model.subject),
            "patch_tokens": job.model.patch_tokens,
            "image_encoder": _weights_id(net.image_encoder.visual, net.image_encoder.settings),
        }
    return hashlib.sha256(json.dumps(inputs, sort_keys=True).encode()).hexdigest()[:12]


def _subject_settings(config: SubjectConfig) -> dict[str, object]:
    """Return the settings of the subjects' pictures.

    Old caches have no `fill_cavities`; at its default it is left out, so that their stamps stay valid.
    """
    return config.model_dump(mode="json", exclude=None if config.fill_cavities else {"fill_cavities"})


def _augmentation_settings(config: AugmentationConfig) -> dict[str, object]:
    """Return the settings of the augmentation; `resampling` as `_subject_settings` treats `fill_cavities`."""
    is_default = config.resampling is CutoutResampling.TWO_STEPS
    return config.model_dump(mode="json", exclude={"resampling"} if is_default else None)


def _weights_id(network: nn.Module, settings: Mapping[str, object]) -> str:
    digest = hashlib.sha256(json.dumps(dict(settings), sort_keys=True, default=str).encode())
    for name, weight in sorted(network.state_dict().items()):
        digest.update(f"{name} {weight.dtype} {tuple(weight.shape)}\n".encode())
        digest.update(weight.contiguous().numpy().data)
    return digest.hexdigest()
