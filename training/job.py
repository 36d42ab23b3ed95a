"""Runs a training job in this process, or on a Ray cluster, where Ray Train replaces workers that die.

Ray starts the workers, joins them into torch's process group and restarts them when one is lost. Data, order,
checkpoints and resumption do not depend on Ray (docs/notes/training.md).
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

from infra.lock import file_lock
from infra.logs import setup_logs
from infra.ray_cluster import join_cluster
from infra.storage import publish_bytes, storage_path
from labeling.sdd.shards import ShardStore
from model.errors import ModelError
from training.cache.spec import open_cache
from training.checkpoints.store import LATEST, LATEST_GOOD, Checkpoints, RunIdentity, check_same_run
from training.config import TrainingConfig, TrainingJob
from training.data.config import DataConfig
from training.data.errors import StorageFault
from training.data.loader import load_batches
from training.data.plan import read_plan, shard_names
from training.distributed.cluster import warn_if_cluster_small, with_absolute_paths
from training.distributed.global_batch import warn_if_batch_differs
from training.distributed.parallel import Worker, broadcast_from_leader, this_worker
from training.errors import CheckpointError, TrainingError
from training.loop import train
from training.monitoring.evaluation import MakeEvaluator, load_evaluations
from training.monitoring.samples import read_sample_rows
from training.network import load_initial_network

log = logging.getLogger(__name__)
LOCK = "job.lock"
LOCK_TIMEOUT_S = 5.0
"""Seconds to wait for the lock of the output folder."""
RAY_COPIES = "working_dir_files"
"""Name of the folder in which `ray job submit --working-dir` puts its copies."""


@dataclass(frozen=True)
class Launch:
    """Arguments of the workers."""

    job: TrainingJob
    start: Path | None
    """Checkpoint to resume from, unless the job has written a later one since."""
    name: str
    """Unique name of this launch of the job."""
    make_evaluator: MakeEvaluator | None = None
    """Loads the benchmark of `training.evaluation`; None where the command has no benchmarks."""


def run(
    job: TrainingJob, resume: str | None = None, local: bool = False, make_evaluator: MakeEvaluator | None = None
) -> None:
    """Train to the last step.

    Args:
        resume: "latest", "latest-good", the folder of a checkpoint, or None for a new run.
        local: train in this process, as one worker, without Ray.
        make_evaluator: loads the benchmark of `training.evaluation` in each worker; Ray pickles it.

    Raises:
        TrainingError: settings, data or checkpoints do not fit each other, or training failed.
    """
    _refuse_relative_out_on_ray(job.training.out)
    job = with_absolute_paths(job)
    shard_names(ShardStore(job.training.data.dataset))  # raises before workers are started if there is no data
    workers = 1 if local else job.training.workers
    warn_if_row_groups_shared(job.training.data, workers)
    warn_if_batch_differs(job.training, workers)
    with _lock_folder(Path(job.training.out)):
        start, name = _resume_checkpoint(job, resume, workers), f"launch-{uuid.uuid4().hex[:8]}"
        launch = Launch(job, start, name, make_evaluator)
        if local:
            run_worker(launch, this_worker(job.training.gpu))
        else:
            _on_ray(launch)


def run_worker(launch: Launch, worker: Worker) -> None:
    """Train as one of the workers, from the checkpoint with the most steps."""
    config = launch.job.training
    plan = read_plan(config.data, config.seed)  # before the networks, which may take minutes to load
    evaluations = load_evaluations(launch.job, launch.make_evaluator, worker)
    net = load_initial_network(launch.job)
    mean = net.image_encoder.mean.flatten().tolist()
    cache = open_cache(launch.job, plan, net)
    read = partial(load_batches, plan, config.data, launch.job.model, net.prompts, mean, cache=cache)
    rows = partial(read_sample_rows, plan, config, launch.job.model, net)
    start = broadcast_from_leader(worker, _furthest_checkpoint(launch) if worker.is_leader else None)
    train(net, launch.job, plan, read, worker, start, rows, evaluations)


def _refuse_relative_out_on_ray(out: str) -> None:
    """Refuse a relative `out` in the temporary folder that `ray job submit` works in.

    Raises:
        TrainingError: `out` is relative and the working folder is a copy made by Ray.
    """
    if RAY_COPIES in Path.cwd().parts and not Path(out).expanduser().is_absolute():
        raise TrainingError(
            f"training.out={out!r} is relative, and this job runs in a copy of your folder that Ray removes. Set "
            "training.out to an absolute path that all nodes share"
        )


@contextmanager
def _lock_folder(out: Path) -> Iterator[None]:
    """Lock the output folder. Two jobs in one folder would remove each other's partly written checkpoints.

    Raises:
        TrainingError: another job uses the folder, or it is not writable.
    """
    busy = f"another job is training in {out}. Wait for it, stop it, or set training.out to another folder"
    with ExitStack() as stack:
        try:
            stack.enter_context(file_lock(out / LOCK, LOCK_TIMEOUT_S, TrainingError(busy)))
        except OSError as error:
            raise TrainingError(
                f"cannot write to {out} ({error.strerror}). Set training.out to another folder"
            ) from error
        yield


def _resume_checkpoint(job: TrainingJob, resume: str | None, workers: int) -> Path | None:
    """Return the checkpoint that `resume` names, after checking that it belongs to this run.

    Raises:
        CheckpointError: it belongs to another run, or the folder holds checkpoints that would be mixed with new ones.
    """
    checkpoints = _checkpoints(job.training)
    start = _checkpoint_named(checkpoints, resume)
    latest = checkpoints.latest()
    if resume is None and latest is not None:
        raise CheckpointError(
            f"{latest} exists. Use --resume latest to continue from it, or set training.out to a new folder"
        )
    if start is None:
        if resume is not None:
            log.warning("%s has no checkpoint to resume from: training starts at step 0", job.training.out)
        return None
    record = checkpoints.record(start)
    if latest is not None and record.position.step < checkpoints.record(latest).position.step:
        raise CheckpointError(
            f"{latest} has more steps than {start}. Move it away, or set training.out to another folder"
        )
    check_same_run(start, record, RunIdentity.of(job, read_plan(job.training.data, job.training.seed).stamp))
    before = record.workers * record.settings["training"]["accumulation"]
    if (now := workers * job.training.accumulation) != before:
        log.warning("a step now has %d batches instead of %d; the learning rate does not change", now, before)
    rate = record.settings["training"]["optimizer"]["learning_rate"]
    if (now_rate := job.training.optimizer.learning_rate) != rate:
        log.warning("the learning rate is now %g instead of %g", now_rate, rate)
    return start


def _checkpoint_named(checkpoints: Checkpoints, resume: str | None) -> Path | None:
    """Return the checkpoint that `resume` names."""
    if resume == LATEST:
        return checkpoints.latest()
    if resume == LATEST_GOOD:
        return checkpoints.latest_good()
    return None if resume is None else Path(resume).absolute()


def _furthest_checkpoint(launch: Launch) -> Path | None:
    """Return the checkpoint with the most steps: after a lost worker, it is later than the one at the launch.

    Only the leader calls this, because a network file system may show different folders to different workers.
    """
    checkpoints = _checkpoints(launch.job.training)
    candidates = [path for path in (launch.start, checkpoints.latest()) if path is not None]
    return max(candidates, key=lambda path: checkpoints.record(path).position.step, default=None)


def _checkpoints(config: TrainingConfig) -> Checkpoints:
    return Checkpoints(Path(config.out), config.keep, Worker())


def _on_ray(launch: Launch) -> None:
    import ray
    from ray.train import FailureConfig, RunConfig, ScalingConfig, TrainingFailedError
    from ray.train.torch import TorchConfig, TorchTrainer

    os.environ["RAY_CHDIR_TO_TRIAL_DIR"] = "0"
    config = launch.job.training
    join_cluster()
    warn_if_cluster_small(config, ray.cluster_resources())
    trainer = TorchTrainer(
        ray_worker,
        train_loop_config={"launch": launch},
        torch_config=TorchConfig(backend="nccl" if config.gpu else "gloo"),
        scaling_config=ScalingConfig(
            num_workers=config.workers,
            use_gpu=config.gpu,
            resources_per_worker={"CPU": config.cpus_per_worker, **({"GPU": 1} if config.gpu else {})},
        ),
        run_config=RunConfig(
            name=launch.name,
            storage_path=str(Path(config.out) / "ray"),
            failure_config=FailureConfig(max_failures=config.max_failures),
        ),
    )
    try:
        trainer.fit()
    except TrainingFailedError as error:
        raise TrainingError(f"the workers failed {config.max_failures + 1} times: {_cause(error)}") from error
    if (error_file := _error_file(launch)).exists():
        raise TrainingError(error_file.read_text(encoding="utf-8"))


def ray_worker(arguments: dict[str, Launch]) -> None:
    """Run one worker of Ray Train.

    An error that is not retryable is written to a file; the retry that Ray starts sees the file and ends at once.
    """
    launch = arguments["launch"]
    setup_logs()
    error_file = _error_file(launch)
    if error_file.exists():
        return
    try:
        run_worker(launch, this_worker(launch.job.training.gpu))
    except StorageFault:
        raise
    except (TrainingError, ModelError) as error:
        publish_bytes(storage_path(error_file), str(error).encode())
        raise


def _error_file(launch: Launch) -> Path:
    return Path(launch.job.training.out) / "ray" / f"{launch.name}.error"


def _cause(error: Exception) -> str:
    """Return the last line of the first worker's error."""
    failures: Mapping[int, Exception] = getattr(error, "worker_failures", {})
    text = str(next(iter(failures.values()), error))
    return text.strip().splitlines()[-1]


def warn_if_row_groups_shared(config: DataConfig, workers: int) -> None:
    """Warn if several processes would read the same row groups."""
    readers = workers * max(1, config.processes)
    if config.streams % readers:
        log.warning(
            "training.data.streams=%d is not a multiple of the %d loader processes, so several of them read the same "
            "row groups. Set training.data.streams=%d",
            config.streams,
            readers,
            math.ceil(config.streams / readers) * readers,
        )
