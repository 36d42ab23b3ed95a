"""Writes a job's cache: in this process, or as a stage of Ray Data on a cluster.

Ray gets names of files and returns short reports; no pixels cross its object store. A file that is there is not made
again, so a run that was killed goes on by being started again.
"""

import json
import logging
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from infra.logs import setup_logs
from infra.ray_cluster import join_cluster
from labeling.errors import LabelingError
from model.errors import ModelError
from training.cache.writer import CacheWriter, Written
from training.cluster import warn_if_cluster_small, with_whole_paths
from training.config import TrainingJob
from training.data.config import CacheConfig
from training.data.plan import Plan, read_plan
from training.errors import TrainingError
from training.monitoring.metrics import duration
from training.parallel import this_worker

log = logging.getLogger(__name__)
NO_PROGRESS_S = 7 * 24 * 3600
"""Ray's own limit, put out of the way: a file may take longer than it."""


@dataclass(frozen=True, slots=True)
class Order:
    """What is to be made."""

    job: TrainingJob
    rebuild: bool
    """Make files anew that are stale or damaged."""


@dataclass(frozen=True, slots=True)
class File:
    """One file of a cache."""

    view: int
    shard: str


def make_cache(job: TrainingJob, here: bool = False, rebuild: bool = False) -> None:
    """Write all files of the job's cache that are not there.

    Args:
        here: in this process, without Ray.
        rebuild: make files anew that are stale or damaged.

    Raises:
        TrainingError: the settings name no cache, a file is stale, or cannot be written.
    """
    job = with_whole_paths(job)
    data = job.training.data
    if data.cache is None:
        raise TrainingError("the settings name no cache: --set training.data.cache.views=1 keeps one draw of each row")
    plan, order = read_plan(data, job.training.seed), Order(job, rebuild)
    files = [File(view, shard.name) for view in range(data.cache.views) for shard in plan.shards]
    written = _here(order, files) if here else _on_ray(order, files)
    _watch(written, files, data.cache, plan)


def _watch(written: Iterator[Written], files: Sequence[File], config: CacheConfig, plan: Plan) -> None:
    """Say how far it is, after each file."""
    start, total = time.monotonic(), config.views * plan.rows_per_epoch
    done = encoded = left_out = number = 0
    for number, file in enumerate(written, 1):
        done, left_out = done + file.rows, left_out + file.left_out
        encoded += file.rows if file.seconds else 0
        rate = encoded / (time.monotonic() - start)
        left = f", {duration((total - done) / rate)} left" if rate and done < total else ""
        how = f"{file.rows} images, {file.left_out} left out" if file.seconds else "was there"
        log.info("file %d of %d: view %d, %s: %s%s", number, len(files), file.view, file.shard, how, left)
    if number < len(files):
        raise TrainingError(f"{len(files) - number} of {len(files)} files have no report: run it again")
    log.info("cache %r is whole: %d views of %d rows", config.name, config.views, plan.rows_per_epoch)


def _here(order: Order, files: Sequence[File]) -> Iterator[Written]:
    writer = CacheWriter(order.job, this_worker(order.job.training.gpu).device, order.rebuild)
    return (writer.write(file.view, file.shard) for file in files)


def _on_ray(order: Order, files: Sequence[File]) -> Iterator[Written]:
    """A fixed pool of actors, each with networks of its own."""
    import ray
    import ray.data
    from ray.exceptions import RayError

    config = order.job.training
    join_cluster()
    warn_if_cluster_small(config, ray.cluster_resources())
    _quiet()
    told = (
        ray.data.from_items([asdict(file) for file in files], override_num_blocks=len(files))
        .map_batches(
            _RayWriter,
            batch_size=1,
            fn_constructor_args=(order,),
            compute=ray.data.ActorPoolStrategy(size=min(config.workers, len(files)), max_tasks_in_flight_per_actor=1),
            num_cpus=config.cpus_per_worker,
            num_gpus=1 if config.gpu else 0,
            max_restarts=config.max_failures,
            max_task_retries=config.max_failures,
        )
        .iter_rows()
    )
    try:
        for row in told:
            report = json.loads(row["report"])
            if "error" in report:
                raise TrainingError(report["error"])
            yield Written(**report)
    except RayError as error:
        raise TrainingError(f"the workers failed: {str(error).strip().splitlines()[-1]}") from error


def _quiet() -> None:
    """What is said of progress we say, and a file may take long."""
    from ray.data import DataContext

    context = DataContext.get_current()
    context.enable_progress_bars = False
    context.print_on_execution_start = False
    context.execution_options.verbose_progress = False
    context.execution_no_progress_timeout_s = NO_PROGRESS_S


class _RayWriter:
    """A `CacheWriter` in a Ray actor. What somebody has to act on goes back as a report, not as a page of Ray's."""

    def __init__(self, order: Order) -> None:
        setup_logs()
        self._order = order
        self._writer: CacheWriter | None = None

    def __call__(self, batch: dict[str, Any]) -> dict[str, Any]:
        return {"report": [json.dumps(self._report(int(batch["view"][0]), str(batch["shard"][0])))]}

    def _report(self, view: int, shard: str) -> dict[str, Any]:
        try:
            if self._writer is None:
                job = self._order.job
                self._writer = CacheWriter(job, this_worker(job.training.gpu).device, self._order.rebuild)
            return asdict(self._writer.write(view, shard))
        except (TrainingError, ModelError, LabelingError) as error:
            return {"error": str(error)}
