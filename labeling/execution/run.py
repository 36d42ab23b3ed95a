"""Runs a job over shards, in threads of this process or on a Ray cluster. The code per shard is the same.

Ray gets names of shards and returns short reports; no pixels cross its object store. Its retries, its exit code and
the number of its reports are not trusted: only the files at the end count (docs/notes/crash-safety.md).
"""

import json
import logging
import os
import queue
import threading
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import suppress
from dataclasses import asdict
from typing import Any, Protocol, Self, TypeAlias

from infra.ray_cluster import join_cluster
from labeling.config import Device, Executor, Workers
from labeling.errors import LabelingError, StageFailed
from labeling.execution.gpus import gpu_share
from labeling.execution.report import ShardReport, raise_failures
from labeling.sdd.shards import ShardStore
from labeling.stages.worker import RESERVED_GPUS

log = logging.getLogger(__name__)
ShardQueue: TypeAlias = "queue.SimpleQueue[str]"
POLL_S = 0.2
"""Seconds between two checks of the stop event."""
NO_PROGRESS_S = 7 * 24 * 3600
"""Ray's own timeout, longer than any shard: the batch deadline ends a process that hangs."""


class ShardJob(Protocol):
    """Job that makes the files of one layer. It is pickled before its first shard."""

    @property
    def name(self) -> str:
        """Layer that the job makes."""

    @property
    def device(self) -> Device | None:
        """Device setting of the network; None for a job without one."""

    @property
    def root(self) -> str:
        """Folder of the dataset."""

    def expected_stamp(self, store: ShardStore, shard: str) -> str | None:
        """Return the stamp that the shard's file will have; None while the layer before has no file."""

    def report_of_finished(self, store: ShardStore, shard: str) -> ShardReport | None:
        """Return the report of a shard whose file exists with the expected stamp; None where there is work to do."""

    def make(self, shard: str) -> ShardReport:
        """Make the shard's file unless it exists; never raises."""

    def for_worker(self, number: int) -> Self:
        """Return a copy for the `number`th worker of this machine, from 0."""

    def close(self) -> None:
        """End the processes that the job has started."""

    def stop(self) -> None:
        """Let `make` return soon; called from another thread."""


def run_job(
    job: ShardJob,
    shards: Sequence[str],
    workers: Workers,
    executor: Executor,
    stop: threading.Event | None = None,
) -> list[ShardReport]:
    """Make the missing files of `shards`; return one report for each. No worker starts where none is missing.

    Args:
        job: job that makes them.
        shards: names of the shards.
        workers: settings of the workers.
        executor: where they run.
        stop: event by which another thread ends the work of this process; work on Ray ends with this process only.

    Raises:
        StageFailed: a file could not be made; the message is the first error.
    """
    by_shard = _reports_of_finished(job, shards)
    todo = [shard for shard in shards if shard not in by_shard]
    if not todo:
        return list(by_shard.values())
    if executor is Executor.HERE:
        reports = _run_locally(job, todo, workers, stop or threading.Event())
    else:
        reports = _run_on_ray(job, todo, workers)
    by_shard |= {report.shard: report for report in reports}
    raise_failures(by_shard.values())
    if missing := [shard for shard in shards if shard not in by_shard]:
        raise StageFailed(f"{len(missing)} shards have no report, {missing[0]} first; the log above may say why")
    return [by_shard[shard] for shard in shards]


def torch_threads(workers: Workers, executor: Executor) -> int:
    """Return the threads of each worker's network: as set, else its share of this machine's cores or its Ray CPUs."""
    if workers.torch_threads is not None:
        return workers.torch_threads
    cores = os.cpu_count() or 1
    return max(1, cores // workers.count if executor is Executor.HERE else int(workers.cpus))


def _reports_of_finished(job: ShardJob, shards: Sequence[str]) -> dict[str, ShardReport]:
    """Return the reports of the shards that are finished. A shard whose files are unreadable is left to a worker."""
    reports, store = {}, ShardStore(job.root)
    for shard in shards:
        with suppress(LabelingError):
            if report := job.report_of_finished(store, shard):
                reports[shard] = report
    return reports


def _run_locally(job: ShardJob, shards: Sequence[str], workers: Workers, stop: threading.Event) -> list[ShardReport]:
    """Make the shards in `workers.count` threads, each with its own copy of the job and so its own network."""
    todo: ShardQueue = queue.SimpleQueue()
    for shard in shards:
        todo.put(shard)
    jobs = [job.for_worker(number) for number in range(min(workers.count, len(shards)))]
    with ThreadPoolExecutor(len(jobs)) as pool:
        futures = [pool.submit(_make_from_queue, copy, todo, stop) for copy in jobs]
        try:
            while wait(futures, POLL_S).not_done:
                if stop.is_set():
                    raise StageFailed("stopped")
        except BaseException:  # an interrupt too
            stop.set()
            for copy in jobs:  # ends the networks, so the threads end
                copy.stop()
            raise
        return [report for future in futures for report in future.result()]


def _make_from_queue(job: ShardJob, todo: ShardQueue, stop: threading.Event) -> list[ShardReport]:
    reports: list[ShardReport] = []
    while not stop.is_set():
        try:
            shard = todo.get_nowait()
        except queue.Empty:
            break
        reports.append(job.make(shard))
    job.close()
    return reports


def _run_on_ray(job: ShardJob, shards: Sequence[str], workers: Workers) -> list[ShardReport]:
    """Make the shards in a fixed pool of Ray actors, each of which supervises a process with the network."""
    import ray
    import ray.data

    join_cluster()
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    context.print_on_execution_start = False
    context.execution_options.verbose_progress = False
    context.execution_no_progress_timeout_s = NO_PROGRESS_S
    count = min(workers.count, len(shards))
    pool = ray.data.ActorPoolStrategy(size=count, max_tasks_in_flight_per_actor=1)
    gpus = gpu_share(job.name, job.device, workers, count, gpus_per_node())
    numbers = ray.remote(num_cpus=0, max_restarts=-1, max_task_retries=-1)(_WorkerNumbers).remote()
    rows = (
        ray.data.from_items(list(shards), override_num_blocks=len(shards))
        .map(_RayWorker, fn_constructor_args=(job, numbers), compute=pool, num_cpus=workers.cpus, num_gpus=gpus)
        .take_all()
    )
    return [ShardReport(**json.loads(row["report"])) for row in rows]


class _WorkerNumbers:
    """Numbers the workers of each node from 0; runs as an actor of its own."""

    def __init__(self) -> None:
        self.next_numbers: Counter[str] = Counter()

    def next(self, node: str) -> int:
        """Return the number of another worker on the node."""
        self.next_numbers[node] += 1
        return self.next_numbers[node] - 1


class _RayWorker:
    """Job in a Ray actor.

    Args:
        job: job to copy for this worker.
        numbers: handle of the `_WorkerNumbers` actor.
    """

    def __init__(self, job: ShardJob, numbers: Any) -> None:
        import ray

        context = ray.get_runtime_context()
        os.environ[RESERVED_GPUS] = ",".join(context.get_accelerator_ids()["GPU"])
        self.job = job.for_worker(ray.get(numbers.next.remote(context.get_node_id())))

    def __call__(self, row: dict[str, str]) -> dict[str, str]:
        return {"report": json.dumps(asdict(self.job.make(row["item"])))}


def gpus_per_node() -> list[int]:
    """Return the number of GPUs of each node of the Ray cluster; join or start the cluster."""
    import ray

    join_cluster()
    return [int(node["Resources"].get("GPU", 0)) for node in ray.nodes() if node["Alive"]]
