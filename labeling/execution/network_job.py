"""Makes the files of one stage, shard by shard, with the stage's network in a worker process."""

import time
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Self

from infra.storage import sweep
from labeling.backends.load import backend_modules
from labeling.config import Device, Workers
from labeling.errors import StageFailed
from labeling.execution.forked import ForkServer
from labeling.execution.journal import Journal, journal_path
from labeling.execution.messages import KeyedRow
from labeling.execution.process import StageProcess
from labeling.execution.processes import StageProcesses
from labeling.execution.report import ShardReport, failure_report
from labeling.execution.supervisor import ShardPass
from labeling.sdd.lock import shard_lock
from labeling.sdd.shards import ShardStore
from labeling.steps import Step

MAX_ATTEMPTS = 5
"""Times that a run starts a shard whose supervisor dies."""


@dataclass
class NetworkJob:
    """Job of one stage: implements `labeling.execution.run.ShardJob`."""

    step: Step
    root: str
    workers: Workers
    run: str
    """Name of this run in the journals; attempts are counted per run."""
    torch_threads: int
    """Threads of the network."""
    replace: bool = False
    """Whether files with another stamp are made again."""
    number: int = 0
    """Number among the jobs of the stage on this machine, from 0."""
    processes: StageProcesses | None = None
    """Processes of the run, which outlive the job; None for a process of its own."""
    process: StageProcess | None = field(default=None, init=False)
    """Worker process; None until the first shard needs it."""
    broken: str | None = field(default=None, init=False)
    """Reason why no shard can be made any more; None while shards can."""

    @property
    def name(self) -> str:
        """Layer that the job makes."""
        return self.step.stage.name

    @property
    def device(self) -> Device | None:
        """Device setting of the network; None for a stage without one."""
        return self.step.device

    def make(self, shard: str) -> ShardReport:
        """Make the shard's file unless it exists; return errors in the report, as executors retry calls that raise."""
        try:
            if self.broken:
                raise StageFailed(self.broken)
            return self._make(shard)
        except StageFailed as error:
            self.broken = str(error)
            return ShardReport(stage=self.step.stage.name, shard=shard, error=str(error))
        except Exception as error:
            return failure_report(self.step.stage.name, shard, error)

    def report_of_finished(self, store: ShardStore, shard: str) -> ShardReport | None:
        """Return the report of a shard whose file exists with the expected stamp; None where there is work to do."""
        layer = self.step.stage.name
        existing = store.stamp(layer, shard)
        if existing is None or existing.stamp != self.expected_stamp(store, shard):
            return None
        return ShardReport(stage=layer, shard=shard, counts=existing.counts, reused=True)

    def for_worker(self, number: int) -> Self:
        """Return a copy with a process of its own, for the `number`th worker of this machine, from 0."""
        return replace(self, number=number)

    def close(self) -> None:
        """Give the worker process back to the run, or end it."""
        if self.process is not None and self.processes is not None:
            self.processes.give_back(self.process)
        elif self.process is not None:
            self.process.close()
            self.process.server.close()

    def stop(self) -> None:
        """Make no more files; called from another thread. The rows in flight do not become suspects."""
        self.broken = f"{self.step.stage.name}: stopped"
        if self.process is not None:
            self.process.stop()

    def expected_stamp(self, store: ShardStore, shard: str) -> str | None:
        """Return the stamp that the shard's file will have; None while the layer before has no file."""
        parent = store.stamp(self.step.reads[-1], shard)
        return self.step.stamp(parent.stamp) if parent else None

    def rows(self, store: ShardStore, shard: str) -> Iterator[KeyedRow]:
        """Yield the rows of the shard that the stage gets, in the order of their keys."""
        yield from store.read(self.step.stage.reads, self.step.reads, shard)

    def _make(self, shard: str) -> ShardReport:
        store, stage = ShardStore(self.root), self.step.stage
        with shard_lock(store.root, stage.name, shard):
            stamp = self.expected_stamp(store, shard)
            if stamp is None:
                raise StageFailed(f"{stage.name}: {store.path(self.step.reads[-1], shard)} does not exist")
            if (existing := store.stamp(stage.name, shard)) and (existing.stamp == stamp or not self.replace):
                store.has(stage.name, shard, stamp)
                return ShardReport(stage=stage.name, shard=shard, counts=existing.counts, reused=True)
            sweep(store.path(stage.name, shard))
            journal = Journal.begin(journal_path(store.root, stage.name, shard), self.run)
            if journal.attempts > MAX_ATTEMPTS:
                raise StageFailed(
                    f"{stage.name} {shard}: started {MAX_ATTEMPTS} times without finishing; see {journal.path}"
                )
            process = self._process()
            shard_pass = ShardPass(process, journal)
            starts, start_cpu_s = process.starts, process.start_cpu_s
            start, start_thread_s = time.monotonic(), time.thread_time()
            try:
                rows = shard_pass.outcomes(self.rows(store, shard))
                counts = store.write_outcomes(stage.name, shard, rows, stage.writes, stamp, replace=self.replace)
            except FileExistsError:  # object stores have no locks: another process made the file meanwhile
                store.has(stage.name, shard, stamp)
                return ShardReport(stage=stage.name, shard=shard, reused=True)
            finally:
                if shard_pass.in_flight:  # the next shard would get their results
                    shard_pass.process.discard()
            journal.remove()
        return ShardReport(
            stage=stage.name,
            shard=shard,
            counts=counts,
            seconds=time.monotonic() - start,
            prepare_s=shard_pass.prepare_s,
            process_s=shard_pass.process_s,
            start_s=shard_pass.start_s,
            cpu_s=shard_pass.cpu_s + time.thread_time() - start_thread_s,
            start_cpu_s=process.start_cpu_s - start_cpu_s,
            starts=process.starts - starts,
            on_gpu=process.on_gpu,
            deaths=shard_pass.deaths,
        )

    def _process(self) -> StageProcess:
        if self.process is None:
            stage, workers = self.step.stage, self.workers
            if self.processes is not None:
                self.process = self.processes.take(stage, workers, self.torch_threads, self.number)
            else:
                server = ForkServer(backend_modules([stage.config]))
                self.process = StageProcess(stage, workers, self.torch_threads, workers.batch_size, self.number, server)
        return self.process
