"""Worker processes of a run, which keep their networks from one part of the list to the next."""

import threading
from collections.abc import Sequence

from labeling.config import Workers
from labeling.errors import StageFailed
from labeling.execution.forked import ForkServer
from labeling.execution.process import StageProcess
from labeling.stages.base import AnyStage


class StageProcesses:
    """One worker process for each stage and number, all started by one fork server. Safe to use from many threads."""

    def __init__(self, modules: Sequence[str] = (), *, keep: bool = True) -> None:
        """Start nothing yet.

        Args:
            modules: modules that the server imports once for all processes, as in `ForkServer`.
            keep: whether a process outlives the part of the list that it was taken for.
        """
        self._server = ForkServer(modules)
        self._keep = keep
        self._closed = False
        self._lock = threading.Lock()
        self._processes: dict[tuple[str, int], StageProcess] = {}

    def take(self, stage: AnyStage, workers: Workers, torch_threads: int, number: int) -> StageProcess:
        """Return the process of a stage, which may be running. The caller gives it back before another takes it.

        Raises:
            StageFailed: `close` was called.
        """
        with self._lock:
            if self._closed:
                raise StageFailed(f"{stage.name}: stopped")
            former = self._processes.get((stage.name, number))
            if former and not former.closed and former.stage is stage and former.workers == workers:
                return former
            if former:
                former.close()
            process = StageProcess(stage, workers, torch_threads, workers.batch_size, number, self._server)
            self._processes[stage.name, number] = process
            return process

    def give_back(self, process: StageProcess) -> None:
        """Let an idle process wait for the next part of the list, or end it."""
        if self._keep:
            process.release_memory()
        else:
            process.close()

    def close(self) -> None:
        """End all processes, and their server."""
        with self._lock:
            self._closed = True
            for process in self._processes.values():
                process.close()
            self._server.close()
