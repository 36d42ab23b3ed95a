"""Makes the file of one stage and shard with a network in a child process, whatever the rows do to that process.

the row raises                  failed, with the exception        (found in the child, by bisection)
the batch does not fit          halved; the size is kept          (in the child)
the process crashes, or hangs   its rows are replayed one by one; one that does it again, alone, is quarantined
the process is killed           the same, but one that was alone twice
this process dies               the file is not there; whoever runs the shard next reads the journal
"""

import logging
import os
import signal
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from multiprocessing.connection import Connection, Pipe
from typing import Any, Self

from infra.storage import sweep
from labeling.config import Device, Workers
from labeling.errors import LabelingError, StageContract, StageFailed
from labeling.execution.child import Answer, Assignment, GaveUp, Ready
from labeling.execution.journal import Journal, journal_path
from labeling.sdd.lock import shard_lock
from labeling.sdd.schema import State, Verdict
from labeling.sdd.shards import Refused, ShardStore
from labeling.stages.base import Stage
from labeling.stages.worker import WORKER_NUMBER
from labeling.steps import Step

log = logging.getLogger(__name__)
MAX_STARTS = 5
"""Processes that die while they load, one after the other, before the stage gives up."""
MAX_ATTEMPTS = 5
"""How often a run begins a shard whose supervisor dies."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ShardReport:
    """What was done with one shard. Plain data: it crosses process borders."""

    stage: str
    shard: str
    counts: dict[str, int] = field(default_factory=dict)
    """Images by state."""
    reused: bool = False
    seconds: float = 0.0
    prepare_s: float = 0.0
    """Thread seconds of decoding and resizing."""
    process_s: float = 0.0
    """Seconds of the network."""
    start_s: float = 0.0
    """Of `seconds`: until the process had its network loaded."""
    deaths: int = 0
    """Processes that ended on the way."""
    error: str | None = None
    """Why there is no file."""
    passing: bool = False
    """Whether the error is none of ours, as that of a storage that did not answer: another try may help."""


def failure(stage: str, shard: str, error: Exception) -> ShardReport:
    """The report of a shard whose file was not made; an error that is none of ours is logged in full."""
    passing = not isinstance(error, LabelingError)
    if passing:
        log.exception("%s %s", stage, shard)
    text = f"{stage} {shard}: {type(error).__name__}: {error}"
    return ShardReport(stage=stage, shard=shard, error=text, passing=passing)


_CRASHES = frozenset({signal.SIGABRT, signal.SIGBUS, signal.SIGFPE, signal.SIGILL, signal.SIGSEGV})
"""Signals that a process brings upon itself; SIGKILL may be an operator's, or for want of memory."""


class ProcessDied(Exception):
    """The child ended or was ended; the message is how."""

    def __init__(self, message: str, by_itself: bool = False) -> None:
        super().__init__(message)
        self.by_itself = by_itself
        """Whether what it was doing is the cause: it crashed or hung."""


class _Watchdog(threading.Timer):
    """Kills a process at a deadline, unless it is cancelled before."""

    def __init__(self, process: "subprocess.Popen[bytes]", deadline_s: float) -> None:
        super().__init__(deadline_s, self._kill)
        self.daemon, self.late = True, False
        self._process = process
        self.start()

    def _kill(self) -> None:
        self.late = True
        self._process.kill()


@dataclass
class Network:
    """A stage's network in a process of its own."""

    stage: Stage[Any, Any]
    workers: Workers
    torch_threads: int
    batch_limit: int
    number: int = 0
    """Among the networks of the stage on this machine; which GPU it is on follows from it."""
    process: "subprocess.Popen[bytes] | None" = None
    pipe: "Connection[Any, Any] | None" = None
    closed: bool = False

    def start(self) -> None:
        """Start the process and wait for its network, unless it is there.

        Raises:
            StageFailed: it cannot be loaded, or died `MAX_STARTS` times while loading.
        """
        for attempt in range(1, MAX_STARTS + 1):
            if self.process is not None:
                return
            try:
                self._start()
            except ProcessDied as death:
                log.warning(
                    "%s: loading the network failed (%d of %d): %s", self.stage.name, attempt, MAX_STARTS, death
                )
                last = str(death)
        if self.process is None:
            raise StageFailed(f"{self.stage.name}: the process of the network does not start: {last}")

    def send(self, rows: list[Any]) -> None:
        """Put a batch on the network.

        Raises:
            ProcessDied: there is nobody to take it.
        """
        assert self.pipe is not None, "start() was not called"
        with self._within(self.workers.batch_deadline_s):
            self.pipe.send(rows)

    def receive(self, deadline_s: float) -> Any:
        """The next message.

        Raises:
            ProcessDied: there is none and will be none, or not within `deadline_s`.
        """
        assert self.pipe is not None, "start() was not called"
        with self._within(deadline_s):
            return self.pipe.recv()

    @contextmanager
    def _within(self, deadline_s: float) -> Iterator[None]:
        """Kill the process when the block, which reads or writes its pipe, takes longer than `deadline_s`.

        Raises:
            ProcessDied: its process is gone, by itself or by the deadline; the message says which.
        """
        assert self.process is not None, "start() was not called"
        watchdog = _Watchdog(self.process, deadline_s)
        try:
            yield
        except (EOFError, OSError):
            death = self._ended()
            late = ProcessDied(f"no answer within {deadline_s:g} s", by_itself=True)
            raise (late if watchdog.late else death) from None
        finally:
            watchdog.cancel()

    def discard(self) -> None:
        """End the process with whatever it has been sent; `start` makes a new one."""
        if self.process is not None:
            self.process.kill()
            self._ended()

    def close(self) -> None:
        """End the process; it will not be started again."""
        self.stop()
        if self.process is not None:
            self._ended()

    def stop(self) -> None:
        """The same from another thread: whoever waits for the process hears that it has ended."""
        self.closed = True
        if (process := self.process) is not None:
            process.kill()

    def _start(self) -> None:
        if self.closed:
            raise StageFailed(f"{self.stage.name}: stopped")
        ours, theirs = Pipe()
        with theirs:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "labeling.execution.child", str(theirs.fileno()), str(os.getpid())],
                pass_fds=[theirs.fileno()],
                env=os.environ
                | {
                    "PYTHONPATH": os.pathsep.join(p or os.getcwd() for p in sys.path),
                    WORKER_NUMBER: str(self.number),
                },
                stdin=subprocess.DEVNULL,
                start_new_session=True,  # an interrupt is for us, who then end it
            )
        self.pipe = ours
        if self.closed:  # meanwhile
            self.process.kill()
        self.send_assignment()
        message = self.receive(self.workers.start_deadline_s)
        if isinstance(message, GaveUp):
            self._ended()
            if message.final:
                raise StageFailed(f"{self.stage.name}: {message.error}")
            raise ProcessDied(message.error)
        assert isinstance(message, Ready)

    def send_assignment(self) -> None:
        """Tell a new process what it is for."""
        assert self.pipe is not None
        assignment = Assignment(self.stage, self.workers.prepare_threads, self.torch_threads, self.batch_limit)
        try:
            self.pipe.send(assignment)
        except OSError:
            raise self._ended() from None

    def _ended(self) -> ProcessDied:
        """Wait for the process's end; how it ended."""
        assert self.pipe is not None
        assert self.process is not None
        self.pipe.close()
        code = self.process.wait()
        self.process = None
        if code < 0:
            return ProcessDied(f"killed by {signal.Signals(-code).name}", by_itself=-code in _CRASHES)
        return ProcessDied(f"exit code {code}")


@dataclass
class NetworkJob:
    """Makes the files of one stage, shard by shard."""

    step: Step
    root: str
    workers: Workers
    run: str
    """Names this run in the journals: attempts are counted anew in the next."""
    torch_threads: int
    replace: bool = False
    """Whether files with another stamp are made again."""
    number: int = 0
    """Among the jobs of the stage on this machine."""
    network: Network | None = field(default=None, init=False)
    broken: str | None = field(default=None, init=False)
    """Why no shard can be made any more."""

    @property
    def name(self) -> str:
        """The layer that it makes."""
        return self.step.stage.name

    @property
    def device(self) -> Device | None:
        """Where its network may run; None where it has no network."""
        return self.step.device

    def make(self, shard: str) -> ShardReport:
        """Make the shard's file, unless it is there; never raises, as whoever runs it might try for ever."""
        try:
            if self.broken:
                raise StageFailed(self.broken)
            return self._make(shard)
        except StageFailed as error:
            self.broken = str(error)
            return ShardReport(stage=self.step.stage.name, shard=shard, error=str(error))
        except Exception as error:
            return failure(self.step.stage.name, shard, error)

    def beside(self, number: int) -> Self:
        """The same, with a network of its own: the `number`th on this machine, from 0."""
        return replace(self, number=number)

    def close(self) -> None:
        """End the network's process."""
        if self.network is not None:
            self.network.close()

    def stop(self) -> None:
        """Make no more files; called from another thread. The rows on the network are not blamed."""
        self.broken = f"{self.step.stage.name}: stopped"
        if self.network is not None:
            self.network.stop()

    def expected(self, shard: str) -> str | None:
        """The stamp that the shard's file will have; None before the file is there from which it is made."""
        parent = ShardStore(self.root).stamp(self.step.reads[-1], shard)
        return self.step.stamp(parent.stamp) if parent else None

    def _make(self, shard: str) -> ShardReport:
        store, stage = ShardStore(self.root), self.step.stage
        with shard_lock(store.root, stage.name, shard):
            stamp = self.expected(shard)
            if stamp is None:
                raise StageFailed(f"{stage.name}: {store.path(self.step.reads[-1], shard)} is not there")
            if (found := store.stamp(stage.name, shard)) and (found.stamp == stamp or not self.replace):
                store.has(stage.name, shard, stamp)
                return ShardReport(stage=stage.name, shard=shard, counts=found.counts, reused=True)
            sweep(store.path(stage.name, shard))
            journal = Journal.begin(journal_path(store.root, stage.name, shard), self.run)
            if journal.attempts > MAX_ATTEMPTS:
                raise StageFailed(
                    f"{stage.name} {shard}: begun {MAX_ATTEMPTS} times without an end; see {journal.path}"
                )
            labelling = Labelling(self._network(), journal)
            start = time.monotonic()
            try:
                rows = labelling.outcomes(store.read(stage.reads, self.step.reads, shard))
                counts = store.write_outcomes(stage.name, shard, rows, stage.writes, stamp, replace=self.replace)
            except FileExistsError:  # an object store has no locks: somebody else was first
                store.has(stage.name, shard, stamp)
                return ShardReport(stage=stage.name, shard=shard, reused=True)
            finally:
                if labelling.in_flight:  # else the next shard would be given the answers
                    labelling.network.discard()
            journal.remove()
        return ShardReport(
            stage=stage.name,
            shard=shard,
            counts=counts,
            seconds=time.monotonic() - start,
            prepare_s=labelling.prepare_s,
            process_s=labelling.process_s,
            start_s=labelling.start_s,
            deaths=labelling.deaths,
        )

    def _network(self) -> Network:
        if self.network is None:
            self.network = Network(
                self.step.stage, self.workers, self.torch_threads, self.workers.batch_size, self.number
            )
        return self.network


@dataclass
class Labelling:
    """One pass over the rows of a shard: two batches on the network, so that one is decoded while one is computed."""

    network: Network
    journal: Journal
    done: int = 0
    deaths: int = 0
    barren_deaths: int = 0
    prepare_s: float = 0.0
    process_s: float = 0.0
    start_s: float = 0.0
    in_flight: deque[list[Any]] = field(default_factory=deque)
    todo: deque[list[Any]] = field(default_factory=deque)
    """Batches to do before the next rows are read."""

    def outcomes(self, rows: Iterable[Any]) -> Iterator[Any]:
        """One outcome per row, in order.

        Raises:
            StageFailed: the network does not start, or dies whatever it is given.
        """
        units = self._units(rows)
        while True:
            yield from self._fill(units)
            if not self.in_flight:
                return
            yield from self._receive()

    def skip(self) -> None:
        """Count a row that has its outcome without the process."""
        self.done += 1
        if self.done % self.network.workers.batch_size == 0:
            self._note()

    def _fill(self, units: Iterator[list[Any]]) -> Iterator[Any]:
        """Send what may be sent: two batches at most, and a suspect only alone; the outcomes of the quarantined."""
        while len(self.in_flight) < 2:
            unit = self.todo.popleft() if self.todo else next(units, None)
            if unit is None:
                return
            alone = self._alone(unit)
            if self.in_flight and (alone or self._alone(self.in_flight[0])):
                self.todo.appendleft(unit)
                return
            if alone and (cause := self.journal.quarantine(unit[0].key)) is not None:
                yield from self._close(unit, [_quarantined(unit[0].key, cause)])
            else:
                self._send(unit)

    def _units(self, rows: Iterable[Any]) -> Iterator[list[Any]]:
        """Batches of rows in order; a suspect is a batch of its own."""
        unit: list[Any] = []
        for row in rows:
            if self.journal.is_suspect(row.key):
                if unit:
                    yield unit
                yield [row]
                unit = []
                continue
            unit.append(row)
            if len(unit) >= self.network.batch_limit:
                yield unit
                unit = []
        if unit:
            yield unit

    def _alone(self, unit: list[Any]) -> bool:
        return len(unit) == 1 and self.journal.is_suspect(unit[0].key)

    def _send(self, unit: list[Any]) -> None:
        before = time.monotonic()
        if self.network.process is None:
            self.journal.loads()
        self.network.start()
        self.start_s += time.monotonic() - before
        self.in_flight.append(unit)
        self._note()
        try:
            self.network.send(unit)
        except ProcessDied as death:
            self._died(death)

    def _receive(self) -> list[Any]:
        try:
            message = self.network.receive(self.network.workers.batch_deadline_s)
        except ProcessDied as death:
            self._died(death)
            return []
        if isinstance(message, GaveUp):
            raise StageFailed(message.error)
        assert isinstance(message, Answer)
        self.barren_deaths = 0
        self.network.batch_limit = message.batch_limit
        self.prepare_s += message.prepare_s
        self.process_s += message.process_s
        return self._close(self.in_flight.popleft(), message.outcomes)

    def _close(self, unit: list[Any], outcomes: list[Any]) -> list[Any]:
        if [outcome.key for outcome in outcomes] != [row.key for row in unit]:
            self.network.discard()
            raise StageContract(f"{self.network.stage.name}: the answer is not of the images that were asked about")
        self.done += len(unit)
        self._note()
        return outcomes

    def _note(self) -> None:
        self.journal.sent((row.key for unit in self.in_flight for row in unit), self.done)

    def _died(self, death: ProcessDied) -> None:
        """What was on the network goes back to the front, row by row."""
        if self.network.closed:
            self.journal.sent((), self.done)
            raise StageFailed(f"{self.network.stage.name}: stopped")
        log.warning("%s: the worker process ended (%s)", self.network.stage.name, death)
        self.journal.died(str(death), death.by_itself)
        self.todo.extendleft([row] for unit in reversed(self.in_flight) for row in reversed(unit))
        self.in_flight.clear()
        self.deaths += 1
        self.barren_deaths += 1
        if self.barren_deaths > 4 * self.network.workers.batch_size + 2:  # all rows of two batches twice: not the rows
            self.journal.remove()  # the next run must not quarantine for these deaths
            raise StageFailed(
                f"{self.network.stage.name}: the worker process ended {self.barren_deaths} times without finishing "
                f"an image, last: {death}. It is not the images: look at the device and the log above"
            )


def _quarantined(key: bytes, cause: str) -> Refused:
    reason = "hang" if cause.startswith("no answer") else "crash"
    return Refused(key=key, verdict=Verdict(state=State.QUARANTINED, reason=reason, detail=cause))
