"""Runs a stage over shards: here, or on a Ray cluster. Per shard the code is the same.

Ray gets shard ids and returns short reports; no pixels cross its object store, and its retries, exit code and number
of reports are not trusted: what counts is which files are there at the end (docs/notes/crash-safety.md).
"""

import json
import logging
import os
import queue
import threading
from collections import Counter
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from dataclasses import asdict
from typing import Any, Protocol, Self

from infra.ray_cluster import join_cluster
from labeling.config import Device, Executor, Workers
from labeling.errors import StageFailed, StageInterrupted
from labeling.execution.gpus import gpu_share
from labeling.execution.supervisor import ShardReport
from labeling.stages.worker import RESERVED_GPUS

log = logging.getLogger(__name__)
WATCH_S = 0.2
NO_PROGRESS_S = 7 * 24 * 3600
"""Ray's own limit, put out of the way: hangs are ended by the batch deadline."""


class ShardJob(Protocol):
    """What makes the files of one layer. Crosses process borders before its first shard."""

    @property
    def name(self) -> str:
        """The layer that it makes."""

    @property
    def device(self) -> Device | None:
        """Where its network may run; None where it has no network."""

    def expected(self, shard: str) -> str | None:
        """The stamp that the shard's file will have; None before the file is there from which it is made."""

    def make(self, shard: str) -> ShardReport:
        """Make the shard's file, unless it is there; never raises."""

    def beside(self, number: int) -> Self:
        """The same for another worker, the `number`th of this machine, from 0."""

    def close(self) -> None:
        """End what the job has started."""

    def stop(self) -> None:
        """Have `make` end soon; called from another thread."""


def run_job(
    job: ShardJob,
    shards: Sequence[str],
    workers: Workers,
    executor: Executor,
    stop: threading.Event | None = None,
) -> list[ShardReport]:
    """Make the files of `shards`; one report for each.

    Args:
        stop: set by another thread, it ends the work here; on Ray it goes on until this process ends.

    Raises:
        StageFailed: a file could not be made; the message is the first reason.
    """
    if not shards:
        return []
    if executor is Executor.HERE:
        reports = _run_here(job, shards, workers, stop or threading.Event())
    else:
        reports = _run_on_ray(job, shards, workers)
    by_shard = {report.shard: report for report in reports}
    refuse_failures(by_shard.values())
    if lost := [shard for shard in shards if shard not in by_shard]:
        raise StageFailed(f"{len(lost)} shards have no report, {lost[0]} first; the log above may say why")
    return [by_shard[shard] for shard in shards]


def refuse_failures(reports: Iterable[ShardReport]) -> None:
    """Let pass what has no failure in it.

    Raises:
        StageFailed: a file could not be made; the message is the first reason.
        StageInterrupted: the same, and no reason is one that somebody has to act on.
    """
    failed = [report for report in reports if report.error]
    if not failed:
        return
    first = min(failed, key=lambda report: report.passing)  # what must be acted on is told first
    more = f" (and {len(failed) - 1} more shards)" if len(failed) > 1 else ""
    raise (StageInterrupted if first.passing else StageFailed)(f"{first.error}{more}")


def torch_threads(workers: Workers, executor: Executor) -> int:
    """Threads for each worker's network: as set, else its share of this machine or of its Ray allotment."""
    if workers.torch_threads is not None:
        return workers.torch_threads
    cores = os.cpu_count() or 1
    return max(1, cores // workers.count if executor is Executor.HERE else int(workers.cpus))


def _run_here(job: ShardJob, shards: Sequence[str], workers: Workers, stop: threading.Event) -> list[ShardReport]:
    """`workers.count` threads, each with a job, so a network, of its own, take the shards as they can."""
    todo: queue.SimpleQueue[str] = queue.SimpleQueue()
    for shard in shards:
        todo.put(shard)
    jobs = [job.beside(number) for number in range(min(workers.count, len(shards)))]
    with ThreadPoolExecutor(len(jobs)) as pool:
        drained = [pool.submit(_drain, own, todo, stop) for own in jobs]
        try:
            while wait(drained, WATCH_S).not_done:
                if stop.is_set():
                    raise StageFailed("stopped")
        except BaseException:  # an interrupt too
            stop.set()
            for own in jobs:  # ends the networks, so the threads end
                own.stop()
            raise
        return [report for reports in drained for report in reports.result()]


def _drain(job: ShardJob, todo: "queue.SimpleQueue[str]", stop: threading.Event) -> list[ShardReport]:
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
    """A fixed pool of Ray actors; each supervises the process that holds the network."""
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
    gpus = gpu_share(job.name, job.device, workers, count, cluster_cards())
    numbers = ray.remote(num_cpus=0, max_restarts=-1, max_task_retries=-1)(_Numbers).remote()
    rows = (
        ray.data.from_items(list(shards), override_num_blocks=len(shards))
        .map(_RayWorker, fn_constructor_args=(job, numbers), compute=pool, num_cpus=workers.cpus, num_gpus=gpus)
        .take_all()
    )
    return [ShardReport(**json.loads(row["report"])) for row in rows]


class _Numbers:
    """Numbers the workers of each node from 0, in an actor of its own."""

    def __init__(self) -> None:
        self.given: Counter[str] = Counter()

    def next(self, node: str) -> int:
        self.given[node] += 1
        return self.given[node] - 1


class _RayWorker:
    """A job in a Ray actor.

    Args:
        numbers: handle of the actor with `_Numbers`.
    """

    def __init__(self, job: ShardJob, numbers: Any) -> None:
        import ray

        here = ray.get_runtime_context()
        os.environ[RESERVED_GPUS] = ",".join(here.get_accelerator_ids()["GPU"])
        self.job = job.beside(ray.get(numbers.next.remote(here.get_node_id())))

    def __call__(self, row: dict[str, Any]) -> dict[str, Any]:
        return {"report": json.dumps(asdict(self.job.make(row["item"])))}


def cluster_cards() -> list[int]:
    """Number of GPUs of each node of the Ray cluster; joins or starts it."""
    import ray

    join_cluster()
    return [int(node["Resources"].get("GPU", 0)) for node in ray.nodes() if node["Alive"]]
