"""Handle of the worker process that runs a stage: start it, exchange batches with it under a deadline, end it."""

import logging
import os
import signal
import threading
from collections.abc import Callable, Hashable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from multiprocessing.connection import Connection, Pipe
from typing import Any

from labeling.config import Workers
from labeling.errors import StageFailed
from labeling.execution.forked import ForkedProcess, ForkServer, import_path
from labeling.execution.messages import Assignment, KeyedRow, Ready, Reply, Request, WorkerError
from labeling.stages.base import AnyStage
from labeling.stages.worker import WORKER_NUMBER

log = logging.getLogger(__name__)
MAX_STARTS = 5
"""Processes in a row that may end while they load the network before the stage fails."""
_CRASHES = frozenset({signal.SIGABRT, signal.SIGBUS, signal.SIGFPE, signal.SIGILL, signal.SIGSEGV})
"""Signals that a process causes itself; SIGKILL may come from an operator or from a system without memory."""


class ProcessDied(Exception):
    """A worker process has ended; the message says how."""

    def __init__(self, message: str, crashed_or_hung: bool = False) -> None:
        super().__init__(message)
        self.crashed_or_hung = crashed_or_hung
        """Whether the process crashed or hung, so that one of its rows may be the cause."""


class _Watchdog(threading.Timer):
    """Kills a process at a deadline, unless it is cancelled before."""

    def __init__(self, process: ForkedProcess, deadline_s: float) -> None:
        super().__init__(deadline_s, self._kill)
        self.daemon, self.expired = True, False
        self._process = process
        self.start()

    def _kill(self) -> None:
        self.expired = True
        self._process.kill()


@dataclass
class StageProcess:
    """Worker process of a stage, and the settings with which `start` replaces one that has ended."""

    stage: AnyStage
    workers: Workers
    torch_threads: int
    """Threads of the network."""
    batch_limit: int
    """Most rows per batch; lowered when the process runs out of memory."""
    number: int = 0
    """Number among the processes of the stage on this machine, from 0; it selects the GPU."""
    server: ForkServer = field(default_factory=ForkServer)
    """Server that starts the processes; its owner closes it."""
    closed: bool = False
    """Whether no process will be started any more."""
    starts: int = field(default=0, init=False)
    """Processes that have loaded the network so far."""
    start_cpu_s: float = field(default=0.0, init=False)
    """CPU-seconds that they took for it."""
    batch_key: Callable[[Any], Hashable] | None = field(default=None, init=False)
    """Function of a row by which the last one wants its batches grouped, as in `Ready`."""
    on_gpu: bool = field(default=False, init=False)
    """Whether the network of the last one is on a GPU."""
    _process: ForkedProcess | None = field(default=None, init=False)
    _pipe: "Connection[Request, Reply] | None" = field(default=None, init=False)

    @property
    def pid(self) -> int | None:
        """Process id; None while no process runs."""
        process = self._process
        return None if process is None else process.pid

    def start(self) -> None:
        """Start a process and wait until its network is loaded; a no-op while one runs.

        Raises:
            StageFailed: the network cannot be loaded, or `MAX_STARTS` processes ended while they loaded it.
        """
        for attempt in range(1, MAX_STARTS + 1):
            if self._process is not None:
                return
            try:
                self._start()
            except ProcessDied as death:
                log.warning(
                    "%s: loading the network failed (%d of %d): %s", self.stage.name, attempt, MAX_STARTS, death
                )
                last = str(death)
        if self._process is None:
            raise StageFailed(f"{self.stage.name}: the process of the network does not start: {last}")

    def send(self, rows: list[KeyedRow]) -> None:
        """Send a batch to the process.

        Raises:
            ProcessDied: the process has ended.
        """
        assert self._pipe is not None, "start() was not called"
        with self._kill_after(self.workers.batch_deadline_s):
            self._pipe.send(rows)

    def receive(self, deadline_s: float) -> Reply:
        """Return the next message of the process.

        Raises:
            ProcessDied: the process has ended, or was killed as it sent nothing within `deadline_s`.
        """
        assert self._pipe is not None, "start() was not called"
        with self._kill_after(deadline_s):
            return self._pipe.recv()

    @contextmanager
    def _kill_after(self, deadline_s: float) -> Iterator[None]:
        """Kill the process if the block, which reads or writes its pipe, takes longer than `deadline_s`.

        Raises:
            ProcessDied: the process has ended by itself or by the deadline; the message says which.
        """
        assert self._process is not None, "start() was not called"
        watchdog = _Watchdog(self._process, deadline_s)
        try:
            yield
        except (EOFError, OSError):
            death = self._wait()
            timeout = ProcessDied(f"no answer within {deadline_s:g} s", crashed_or_hung=True)
            raise (timeout if watchdog.expired else death) from None
        finally:
            watchdog.cancel()

    def release_memory(self) -> None:
        """Have the process free the GPU memory that it does not need while it is idle."""
        if self._process is not None and self.on_gpu:
            with suppress(ProcessDied):  # `start` starts another
                self.send([])

    def discard(self) -> None:
        """Kill the process with the batches it was sent; `start` starts a new one."""
        if self._process is not None:
            self._process.kill()
            self._wait()

    def close(self) -> None:
        """Kill the process for good."""
        self.stop()
        if self._process is not None:
            self._wait()

    def stop(self) -> None:
        """Kill the process for good, from another thread; a thread that waits for it gets `ProcessDied`."""
        self.closed = True
        if (process := self._process) is not None:
            process.kill()

    def _start(self) -> None:
        if self.closed:
            raise StageFailed(f"{self.stage.name}: stopped")
        ours, theirs = Pipe()
        with theirs:
            try:
                process = self.server.start_process(theirs, self.workers.start_deadline_s)
            except (TimeoutError, ConnectionError) as error:
                ours.close()
                raise ProcessDied(str(error)) from error
        self._process, self._pipe = process, ours
        if self.closed:  # `stop` was called since the check above
            process.kill()
        self._send_assignment()
        message = self.receive(self.workers.start_deadline_s)
        if isinstance(message, WorkerError):
            self._wait()
            if message.is_final:
                raise StageFailed(f"{self.stage.name}: {message.error}")
            raise ProcessDied(message.error)
        assert isinstance(message, Ready)
        self.starts += 1
        self.start_cpu_s += message.cpu_s + process.server_cpu_s
        self.on_gpu = message.on_gpu
        self.batch_key = message.batch_key

    def _send_assignment(self) -> None:
        assert self._pipe is not None
        environment = os.environ | {"PYTHONPATH": import_path(), WORKER_NUMBER: str(self.number)}
        threads = self.workers.prepare_threads, self.torch_threads
        assignment = Assignment(self.stage, *threads, self.batch_limit, environment)
        try:
            self._pipe.send(assignment)
        except OSError:
            raise self._wait() from None

    def _wait(self) -> ProcessDied:
        """Wait until the process has ended; return how it ended."""
        assert self._pipe is not None
        assert self._process is not None
        self._pipe.close()
        code = self._process.wait()
        self._process = None
        if code < 0:
            return ProcessDied(f"killed by {signal.Signals(-code).name}", crashed_or_hung=-code in _CRASHES)
        return ProcessDied(f"exit code {code}")
