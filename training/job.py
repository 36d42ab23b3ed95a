"""A training job: in this process, or on a Ray cluster, where Ray Train replaces workers that die.

Ray starts the workers, joins them into torch's process group and starts them anew when one is lost. Data, order,
checkpoints and resumption are ours (docs/notes/training.md).
"""

import logging
import math
import os
import uuid
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch

from infra.lock import file_lock
from infra.logs import setup_logs
from infra.ray_cluster import join_cluster
from infra.storage import publish_bytes, storage_path
from labeling.sdd.shards import ShardStore
from model.errors import ModelError
from training.cache.spec import cache_of
from training.checkpoints.store import LATEST, LATEST_GOOD, Checkpoints, Identity, refuse_another
from training.cluster import warn_if_cluster_small, with_whole_paths
from training.config import TrainingConfig, TrainingJob
from training.data.config import DataConfig
from training.data.errors import StorageFault
from training.data.loader import batches
from training.data.plan import read_plan, shard_names
from training.errors import CheckpointError, TrainingError
from training.global_batch import warn_if_batch_differs
from training.loop import train
from training.monitoring.samples import sampled_rows
from training.network import network_of
from training.parallel import Worker, this_worker, told_by_leader

log = logging.getLogger(__name__)
LOCK = "job.lock"
PATIENCE_S = 5.0
RAY_COPIES = "working_dir_files"
"""Where `ray job submit --working-dir` puts its copies of a folder."""


@dataclass(frozen=True)
class Order:
    """What each worker is told."""

    job: TrainingJob
    start: Path | None
    """Where the job goes on, unless it has got further since."""
    attempt: str
    """Name of this launch of the job."""


def run(job: TrainingJob, resume: str | None = None, here: bool = False) -> None:
    """Train to the last step.

    Args:
        resume: "latest", "latest-good", the folder of a checkpoint, or None for a run that has none yet.
        here: in this process, as one worker, without Ray.

    Raises:
        TrainingError: settings, data or checkpoints do not fit each other, or training broke down.
    """
    _refuse_what_ray_removes(job.training.out)
    job = with_whole_paths(job)
    shard_names(ShardStore(job.training.data.dataset))  # a job without data ends before it starts workers
    workers = 1 if here else job.training.workers
    warn_if_row_groups_shared(job.training.data, workers)
    warn_if_batch_differs(job.training, workers)
    with _alone_in(Path(job.training.out)):
        order = Order(job, _start(job, resume, workers), attempt=f"launch-{uuid.uuid4().hex[:8]}")
        if here:
            work(order, this_worker(job.training.gpu))
        else:
            _on_ray(order)


def work(order: Order, worker: Worker) -> None:
    """What each worker does, from whatever checkpoint is the furthest."""
    config = order.job.training
    plan = read_plan(config.data, config.seed)  # before the network, which may take minutes to load
    torch.manual_seed(config.seed)  # of the new adapters, which all workers must have alike
    net = network_of(order.job.model, config.data)
    mean = net.image_encoder.mean.flatten().tolist()
    cache = cache_of(order.job, plan, net)
    read = partial(batches, plan, config.data, order.job.model, net.prompts, mean, cache=cache)
    rows = partial(sampled_rows, plan, config, order.job.model, net)
    start = told_by_leader(worker, _furthest(order) if worker.leads else None)
    train(net, order.job, plan, read, worker, start, rows)


def _refuse_what_ray_removes(out: str) -> None:
    """Raises `TrainingError` where `out` would be in the copy of a folder that `ray job submit` works in."""
    if RAY_COPIES in Path.cwd().parts and not Path(out).expanduser().is_absolute():
        raise TrainingError(
            f"training.out={out!r} is relative, and this job runs in a copy of your folder that Ray removes: give a "
            "path that all nodes have"
        )


@contextmanager
def _alone_in(out: Path) -> Iterator[None]:
    """Two jobs in one folder would take each other's half-written checkpoints for leftovers.

    Raises:
        TrainingError: another job is in it.
    """
    busy = f"another job trains in {out} and has not ended: wait for it or end it, or give another training.out"
    with ExitStack() as held:
        try:
            held.enter_context(file_lock(out / LOCK, PATIENCE_S, TrainingError(busy)))
        except OSError as error:
            raise TrainingError(f"cannot write in {out} ({error.strerror}): give another training.out") from error
        yield


def _start(job: TrainingJob, resume: str | None, workers: int) -> Path | None:
    """The checkpoint that `resume` names, which is of this run.

    Raises:
        CheckpointError: it is not, or there are checkpoints that would be mixed with others.
    """
    checkpoints = _checkpoints(job.training)
    start = _named(checkpoints, resume)
    latest = checkpoints.latest()
    if resume is None and latest is not None:
        raise CheckpointError(
            f"{latest} is there: --resume latest goes on from it; a new run wants its own training.out"
        )
    if start is None:
        if resume is not None:
            log.warning("%s has no checkpoint to go on from: training begins at step 0", job.training.out)
        return None
    record = checkpoints.record(start)
    if latest is not None and record.position.step < checkpoints.record(latest).position.step:
        raise CheckpointError(f"{latest} is further than {start}: move it away, or give another training.out")
    refuse_another(start, record, Identity.of(job, read_plan(job.training.data, job.training.seed).stamp))
    before = record.workers * record.settings["training"]["accumulation"]
    if (now := workers * job.training.accumulation) != before:
        log.warning("a step has %d batches from here on, and had %d: the learning rate stays as it is", now, before)
    rate = record.settings["training"]["optimizer"]["learning_rate"]
    if (now_rate := job.training.optimizer.learning_rate) != rate:
        log.warning("the learning rate is %g from here on, and was %g", now_rate, rate)
    return start


def _named(checkpoints: Checkpoints, resume: str | None) -> Path | None:
    """The checkpoint that `resume` names."""
    if resume == LATEST:
        return checkpoints.latest()
    if resume == LATEST_GOOD:
        return checkpoints.latest_good()
    return None if resume is None else Path(resume).absolute()


def _furthest(order: Order) -> Path | None:
    """Where to go on: after a worker was lost the job has got further than where it started. The leader says it, since
    a network file system need not show all workers the same folders."""
    checkpoints = _checkpoints(order.job.training)
    found = [path for path in (order.start, checkpoints.latest()) if path is not None]
    return max(found, key=lambda path: checkpoints.record(path).position.step, default=None)


def _checkpoints(config: TrainingConfig) -> Checkpoints:
    return Checkpoints(Path(config.out), config.keep, Worker())


def _on_ray(order: Order) -> None:
    import ray
    from ray.train import FailureConfig, RunConfig, ScalingConfig, TrainingFailedError
    from ray.train.torch import TorchConfig, TorchTrainer

    os.environ["RAY_CHDIR_TO_TRIAL_DIR"] = "0"
    config = order.job.training
    join_cluster()
    warn_if_cluster_small(config, ray.cluster_resources())
    trainer = TorchTrainer(
        ray_worker,
        train_loop_config={"order": order},
        torch_config=TorchConfig(backend="nccl" if config.gpu else "gloo"),
        scaling_config=ScalingConfig(
            num_workers=config.workers,
            use_gpu=config.gpu,
            resources_per_worker={"CPU": config.cpus_per_worker, **({"GPU": 1} if config.gpu else {})},
        ),
        run_config=RunConfig(
            name=order.attempt,
            storage_path=str(Path(config.out) / "ray"),
            failure_config=FailureConfig(max_failures=config.max_failures),
        ),
    )
    try:
        trainer.fit()
    except TrainingFailedError as error:
        raise TrainingError(f"the workers failed {config.max_failures + 1} times: {_cause(error)}") from error
    if (note := _note(order)).exists():
        raise TrainingError(note.read_text(encoding="utf-8"))


def ray_worker(told: dict[str, Any]) -> None:
    """What Ray Train runs in each worker. Errors that another attempt would meet again are noted; the attempt that Ray
    then makes ends at once."""
    order: Order = told["order"]
    setup_logs()
    note = _note(order)
    if note.exists():
        return
    try:
        work(order, this_worker(order.job.training.gpu))
    except StorageFault:
        raise
    except (TrainingError, ModelError) as error:
        publish_bytes(storage_path(note), str(error).encode())
        raise


def _note(order: Order) -> Path:
    return Path(order.job.training.out) / "ray" / f"{order.attempt}.error"


def _cause(error: Exception) -> str:
    """The last line of what the first worker said."""
    failures: Mapping[int, Exception] = getattr(error, "worker_failures", {})
    said = str(next(iter(failures.values()), error))
    return said.strip().splitlines()[-1]


def warn_if_row_groups_shared(config: DataConfig, workers: int) -> None:
    """Warn where several processes read the same row groups."""
    readers = workers * max(1, config.processes)
    if config.streams % readers:
        log.warning(
            "training.data.streams=%d is no multiple of the %d processes that read: row groups are read by several of "
            "them; %d would do",
            config.streams,
            readers,
            math.ceil(config.streams / readers) * readers,
        )
