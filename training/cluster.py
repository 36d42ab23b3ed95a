"""What a job needs to know of the cluster that it runs on: whether it is large enough, and paths that hold on it."""

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from infra.storage import storage_path
from training.config import TrainingConfig, TrainingJob
from training.global_batch import fitting_accumulation

log = logging.getLogger(__name__)


def warn_if_cluster_small(config: TrainingConfig, resources: Mapping[str, float]) -> None:
    """Warn where the cluster is smaller than the workers need together: they wait until it has grown."""
    wanted = {"CPU": config.workers * config.cpus_per_worker, "GPU": config.workers if config.gpu else 0}
    for kind, count in wanted.items():
        if (there := int(resources.get(kind, 0))) < count:
            advice = _advice_for_gpus(config, there) if kind == "GPU" and there else ""
            log.warning("the workers need %d %ss, the cluster has %d: waiting for more%s", count, kind, there, advice)


def _advice_for_gpus(config: TrainingConfig, there: int) -> str:
    accumulation = fitting_accumulation(config, there)
    return f". To train on {there}: --set training.workers={there} --set training.accumulation={accumulation}"


def with_whole_paths(job: TrainingJob) -> TrainingJob:
    """Relative paths are of the folder that the job is launched in, not of each worker's."""
    training, model = job.training, job.model
    data = training.data.model_copy(update={"dataset": str(storage_path(training.data.dataset))})
    training = training.model_copy(update={"data": data, "out": _whole(training.out)})
    folders = {name: getattr(model, name) for name in ("base", "image_encoder")}
    local: dict[str, Any] = {
        name: _whole(given) for name, given in folders.items() if Path(given).expanduser().is_dir()
    }
    if model.subject.backgrounds is not None:
        local["subject"] = model.subject.model_copy(update={"backgrounds": _whole(model.subject.backgrounds)})
    return job.model_copy(update={"training": training, "model": model.model_copy(update=local)})


def _whole(path: str) -> str:
    return str(Path(path).expanduser().absolute())
