"""Runs a job over shards, in threads of this process or on a Ray cluster. The code per shard is the same.

Ray's retries and the number of its reports are not trusted: only the files at the end count
(docs/notes/crash-safety.md).
"""

import logging
import os
import queue
import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import closing, nullcontext, suppress
from typing import Protocol, TypeAlias

from labeling.config import Executor, Workers
from labeling.errors import LabelingError, StageFailed
from labeling.execution.ray_pools import RayJob, RayPools
from labeling.execution.report import ShardReport, raise_failures
from labeling.sdd.shards import ShardStore

log = logging.getLogger(__name__)
ShardQueue: TypeAlias = "queue.SimpleQueue[str]"
POLL_S = 0.2
"""Seconds between two checks of the stop event."""


class ShardJob(RayJob, Protocol):
    """Job that makes the files of one layer. It is pickled before its first shard."""

    @property
    def root(self) -> str:
        """Folder of the dataset."""

    def expected_stamp(self, store: ShardStore, shard: str) -> str | None:
        """Return the stamp that the shard's file will have; None while the layer before has no file."""

    def report_of_finished(self, store: ShardStore, shard: str) -> ShardReport | None:
        """Return the report of a shard whose file exists with the expected stamp; None where there is work to do."""

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
    pools: RayPools | None = None,
) -> list[ShardReport]:
    """Make the missing files of `shards`; return one report for each. No worker starts where none is missing.

    Args:
        job: job that makes them.
        shards: names of the shards.
        workers: settings of the workers.
        executor: where they run.
        stop: event by which another thread ends the work of this process; work on Ray ends with this process only.
        pools: workers on Ray that may outlive the job; None to end them with it.

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
        with nullcontext(pools) if pools else closing(RayPools()) as on_ray:
            reports = on_ray.make(job, todo, workers)
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
