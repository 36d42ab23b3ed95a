"""Which cache a job trains on: the one of its own settings and weights, and no other."""

import hashlib
import json
import logging
from typing import Any

from torch import nn

from infra.precision import Precision
from model.config import SubjectConfig
from model.subject_diffusion import SubjectDiffusion
from training.config import TrainingJob
from training.data.cached import Cache, whole_cache
from training.data.plan import Plan

log = logging.getLogger(__name__)
FORMAT = 1
"""Part of every stamp: raise it when the code that draws pictures, or what a file holds of them, changes."""


def cache_of(job: TrainingJob, plan: Plan, net: SubjectDiffusion) -> Cache | None:
    """The cache that the job trains on; None where it encodes in each step.

    Args:
        net: with its frozen weights as they were loaded.

    Raises:
        CacheError: a file is missing, or is of another dataset, other settings or other weights.
    """
    data = job.training.data
    if data.cache is None:
        return None
    cache = whole_cache(data.dataset, data.cache, plan, identity_of(job, net))
    log.info("from the cache %r, views: %d", data.cache.name, data.cache.views)
    return cache


def identity_of(job: TrainingJob, net: SubjectDiffusion) -> str:
    """12 hex digits that change with the settings and the weights that decide what is cached, but for the seed."""
    data, precision = job.training.data, job.training.precision
    assert data.cache is not None
    decides: dict[str, Any] = {
        "format": FORMAT,
        "image_px": data.image_px,
        "max_subjects": data.max_subjects,
        "precision": [precision, job.model.frozen_precision if precision is Precision.BFLOAT16 else precision],
        "vae": _weights_id(net.vae, {name: value for name, value in net.vae.config.items() if name[0] != "_"}),
    }
    if data.cache.features:
        decides |= {
            "subject_px": data.subject_px,
            "augmentation": data.augmentation.model_dump(mode="json"),
            "subject": _subject_settings(job.model.subject),
            "patch_tokens": job.model.patch_tokens,
            "image_encoder": _weights_id(net.image_encoder.visual, net.image_encoder.settings),
        }
    return hashlib.sha256(json.dumps(decides, sort_keys=True).encode()).hexdigest()[:12]


def _subject_settings(config: SubjectConfig) -> dict[str, Any]:
    """Settings of the subjects' pictures. One that is newer than caches counts only where it is not the default."""
    return config.model_dump(mode="json", exclude=None if config.fill_cavities else {"fill_cavities"})


def _weights_id(network: nn.Module, settings: Any) -> str:
    digest = hashlib.sha256(json.dumps(dict(settings), sort_keys=True, default=str).encode())
    for name, weight in sorted(network.state_dict().items()):
        digest.update(f"{name} {weight.dtype} {tuple(weight.shape)}\n".encode())
        digest.update(weight.contiguous().numpy().data)
    return digest.hexdigest()
