"""Writes a job's cache, in this process or by actors of Ray Data on a cluster.

Ray gets names of files and returns short reports; no pixels cross its object store. Existing files are kept, so a run
that was killed continues when it is started again.
"""

import json
import logging
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass

from infra.logs import setup_logs
from infra.ray_cluster import join_cluster
from labeling.errors import LabelingError
from model.errors import ModelError
from training.cache.writer import CacheReport, CacheWriter
from training.config import TrainingJob
from training.data.config import CacheConfig
from training.data.plan import Plan, read_plan
from training.distributed.cluster import warn_if_cluster_small, with_absolute_paths
from training.distributed.parallel import this_worker
from training.errors import TrainingError
from training.monitoring.metrics import format_duration

log = logging.getLogger(__name__)
NO_PROGRESS_S = 7 * 24 * 3600
"""Seconds after which Ray stops a job without progress: a week, since a file may take longer than Ray's default."""


@dataclass(frozen=True, slots=True)
class CacheRequest:
    """Arguments of the workers."""

    job: TrainingJob
    rebuild: bool
    """Whether to write stale and damaged files again."""


@dataclass(frozen=True, slots=True)
class CacheFile:
    """One file of a cache."""

    view: int
    shard: str


def make_cache(job: TrainingJob, local: bool = False, rebuild: bool = False) -> None:
    """Write all missing files of the job's cache.

    Args:
        local: run in this process, without Ray.
        rebuild: write stale and damaged files again.

    Raises:
        TrainingError: the settings name no cache, a file is stale, or a file cannot be written.
    """
    job = with_absolute_paths(job)
    data = job.training.data
    if data.cache is None:
        raise TrainingError(
            "the settings name no cache. Set training.data.cache.views to the number of draws to keep of each row"
        )
    plan, request = read_plan(data, job.training.seed), CacheRequest(job, rebuild)
    files = [CacheFile(view, shard.name) for view in range(data.cache.views) for shard in plan.shards]
    written = _write_locally(request, files) if local else _write_on_ray(request, files)
    _log_progress(written, files, data.cache, plan)


def _log_progress(written: Iterator[CacheReport], files: Sequence[CacheFile], config: CacheConfig, plan: Plan) -> None:
    """Log the progress after each file.

    Raises:
        TrainingError: a file has no report.
    """
    start, total = time.monotonic(), config.views * plan.rows_per_epoch
    done = encoded = left_out = number = 0
    for number, file in enumerate(written, 1):
        done, left_out = done + file.rows, left_out + file.left_out
        encoded += file.rows if file.seconds else 0
        rate = encoded / (time.monotonic() - start)
        left = f", {format_duration((total - done) / rate)} left" if rate and done < total else ""
        how = f"{file.rows} images, {file.left_out} skipped" if file.seconds else "exists"
        log.info("file %d of %d: view %d, %s: %s%s", number, len(files), file.view, file.shard, how, left)
    if number < len(files):
        raise TrainingError(f"{len(files) - number} of {len(files)} files have no report. Run the command again")
    log.info("cache %r is complete: %d views of %d rows", config.name, config.views, plan.rows_per_epoch)


def _write_locally(request: CacheRequest, files: Sequence[CacheFile]) -> Iterator[CacheReport]:
    writer = CacheWriter(request.job, this_worker(request.job.training.gpu).device, request.rebuild)
    return (writer.write(file.view, file.shard) for file in files)


def _write_on_ray(request: CacheRequest, files: Sequence[CacheFile]) -> Iterator[CacheReport]:
    """Write the files by a fixed pool of actors, each with its own networks."""
    import ray
    import ray.data
    from ray.exceptions import RayError

    config = request.job.training
    join_cluster()
    warn_if_cluster_small(config, ray.cluster_resources())
    _silence_ray()
    reports = (
        ray.data.from_items([asdict(file) for file in files], override_num_blocks=len(files))
        .map_batches(
            _CacheWriterActor,
            batch_size=1,
            fn_constructor_args=(request,),
            compute=ray.data.ActorPoolStrategy(size=min(config.workers, len(files)), max_tasks_in_flight_per_actor=1),
            num_cpus=config.cpus_per_worker,
            num_gpus=1 if config.gpu else 0,
            max_restarts=config.max_failures,
            max_task_retries=config.max_failures,
        )
        .iter_rows()
    )
    try:
        for row in reports:
            report = json.loads(row["report"])
            if "error" in report:
                raise TrainingError(report["error"])
            yield CacheReport(**report)
    except RayError as error:
        raise TrainingError(f"the workers failed: {str(error).strip().splitlines()[-1]}") from error


def _silence_ray() -> None:
    """Turn off Ray's progress bars, as `_log_progress` logs it, and its limit for tasks without progress."""
    from ray.data import DataContext

    context = DataContext.get_current()
    context.enable_progress_bars = False
    context.print_on_execution_start = False
    context.execution_options.verbose_progress = False
    context.execution_no_progress_timeout_s = NO_PROGRESS_S


class _CacheWriterActor:
    """A `CacheWriter` in a Ray actor. It returns expected errors as reports, since Ray would wrap exceptions."""

    def __init__(self, request: CacheRequest) -> None:
        setup_logs()
        self._request = request
        self._writer: CacheWriter | None = None

    def __call__(self, batch: Mapping[str, Sequence[object]]) -> dict[str, list[str]]:
        """Write the file of a batch of one row and return the report as JSON."""
        return {"report": [json.dumps(self._report(int(str(batch["view"][0])), str(batch["shard"][0])))]}

    def _report(self, view: int, shard: str) -> dict[str, object]:
        try:
            if self._writer is None:
                job = self._request.job
                self._writer = CacheWriter(job, this_worker(job.training.gpu).device, self._request.rebuild)
            return asdict(self._writer.write(view, shard))
        except (TrainingError, ModelError, LabelingError) as error:
            return {"error": str(error)}
