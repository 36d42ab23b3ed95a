"""Worker processes that a fork server starts: see `labeling.execution.fork_server`."""

import logging
import os
import select
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from contextlib import suppress
from multiprocessing.connection import Connection
from typing import Any

from labeling.execution.fork_server import ENDED, REQUEST, STARTED

log = logging.getLogger(__name__)
POLL_S = 0.1


class ForkedProcess:
    """A worker process. It is a child of the fork server."""

    def __init__(self, pid: int, report: int, server_cpu_s: float) -> None:
        self.pid = pid
        self.server_cpu_s = server_cpu_s
        """CPU-seconds that the fork server took for it, with its imports if this is its first worker."""
        self._report = report
        self._code: int | None = None
        self._lock = threading.Lock()

    def kill(self) -> None:
        """Kill the process, unless `wait` has returned."""
        if self._code is None:
            with suppress(ProcessLookupError):
                os.kill(self.pid, signal.SIGKILL)

    def wait(self) -> int:
        """Wait until the process has ended; return its exit code, negative for a signal."""
        with self._lock:
            if self._code is None:
                message = os.read(self._report, ENDED.size)
                os.close(self._report)
                self._code = ENDED.unpack(message)[0] if message else -signal.SIGKILL  # killed with its server
            return self._code


class ForkServer:
    """Starts worker processes. The server itself starts with the first of them. Safe to use from many threads."""

    def __init__(self, modules: Sequence[str] = ()) -> None:
        """Do nothing yet.

        Args:
            modules: modules that workers need and that are slow to import. None may use a GPU or start a thread when it
                is imported, as neither survives a fork.
        """
        self._modules = tuple(modules)
        self._lock = threading.Lock()
        self._server: subprocess.Popen[bytes] | None = None
        self._requests: socket.socket | None = None

    def start_process(self, pipe: "Connection[Any, Any]", deadline_s: float) -> ForkedProcess:
        """Start a process that serves `pipe`.

        Raises:
            TimeoutError: it has not started within `deadline_s` seconds.
            ConnectionError: the server has ended.
        """
        ours, theirs = os.pipe()
        try:
            with self._lock:
                requests = self._running()
                socket.send_fds(requests, [REQUEST], [pipe.fileno(), theirs])
        except BaseException:
            os.close(ours)
            raise
        finally:
            os.close(theirs)
        return self._started(ours, time.monotonic() + deadline_s)

    def close(self) -> None:
        """End the server and all processes that it has started."""
        with self._lock:
            self._end()

    def _started(self, report: int, deadline: float) -> ForkedProcess:
        while not select.select([report], [], [], POLL_S)[0]:
            if time.monotonic() > deadline:
                os.close(report)
                self.close()  # it hangs in an import
                raise TimeoutError("the fork server does not answer")
        message = os.read(report, STARTED.size)
        if not message:
            os.close(report)
            raise ConnectionResetError("the fork server has ended")
        pid, cpu_s = STARTED.unpack(message)
        return ForkedProcess(pid, report, cpu_s)

    def _running(self) -> socket.socket:
        if self._server is not None and self._server.poll() is not None:
            log.warning("the fork server ended with exit code %d; another starts", self._server.returncode)
            self._end()
        if self._requests is None:
            self._requests, theirs = socket.socketpair()
            with theirs:
                self._server = subprocess.Popen(
                    [sys.executable, "-m", "labeling.execution.fork_server", str(theirs.fileno()), *self._modules],
                    pass_fds=[theirs.fileno()],
                    env=os.environ | {"PYTHONPATH": import_path()} | _BEFORE_FORK,
                    stdin=subprocess.DEVNULL,
                    start_new_session=True,
                )
        return self._requests

    def _end(self) -> None:
        if self._requests is not None:
            self._requests.close()
        if self._server is not None:
            self._server.kill()  # Linux kills the workers with it
            self._server.wait()
        self._server = self._requests = None


_BEFORE_FORK = {
    "OMP_NUM_THREADS": "1",
    "MKL_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
    "PYTORCH_NVML_BASED_CUDA_CHECK": "1",
}
"""Variables that keep imports from starting threads, and from using a GPU to see whether there is one."""


def import_path() -> str:
    """Return the import path of this process as the value of PYTHONPATH."""
    return os.pathsep.join(path or os.getcwd() for path in sys.path)
