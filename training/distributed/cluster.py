"""Checks that the cluster is large enough for a job, and makes the job's paths absolute for it."""

import logging
from collections.abc import Mapping
from pathlib import Path

from infra.storage import storage_path
from training.config import TrainingConfig, TrainingJob
from training.distributed.global_batch import fitting_accumulation

log = logging.getLogger(__name__)


def warn_if_cluster_small(config: TrainingConfig, resources: Mapping[str, float]) -> None:
    """Warn if the cluster has fewer CPUs or GPUs than the workers need. They wait until it has grown."""
    wanted = {"CPU": config.workers * config.cpus_per_worker, "GPU": config.workers if config.gpu else 0}
    for kind, count in wanted.items():
        if (present := int(resources.get(kind, 0))) < count:
            advice = _gpu_advice(config, present) if kind == "GPU" and present else ""
            log.warning("the workers need %d %ss, the cluster has %d: waiting for more%s", count, kind, present, advice)


def _gpu_advice(config: TrainingConfig, gpus: int) -> str:
    accumulation = fitting_accumulation(config, gpus)
    return f". To train on {gpus}: --set training.workers={gpus} --set training.accumulation={accumulation}"


def with_absolute_paths(job: TrainingJob) -> TrainingJob:
    """Return the job with absolute paths. Relative ones refer to the folder of the launch, not to the workers'."""
    training, model = job.training, job.model
    data = training.data.model_copy(update={"dataset": str(storage_path(training.data.dataset))})
    start = None if training.start is None else _whole(training.start)
    training = training.model_copy(update={"data": data, "out": _whole(training.out), "start": start})
    folders = {name: getattr(model, name) for name in ("base", "image_encoder")}
    local: dict[str, object] = {
        name: _whole(given) for name, given in folders.items() if Path(given).expanduser().is_dir()
    }
    if model.subject.backgrounds is not None:
        local["subject"] = model.subject.model_copy(update={"backgrounds": _whole(model.subject.backgrounds)})
    return job.model_copy(update={"training": training, "model": model.model_copy(update=local)})


def _whole(path: str) -> str:
    return str(Path(path).expanduser().absolute())
