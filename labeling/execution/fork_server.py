"""Program that starts worker processes: `python -m labeling.execution.fork_server FD MODULE...`.

FD is the file descriptor of the socket to the supervisor. The program imports the modules once, and forks a process
for each request, which brings two file descriptors: the pipe between supervisor and worker, and a pipe for the process
id and later the exit code. So only the first process costs the import of PyTorch. The program ends, and its workers
with it, when the supervisor ends, however it ends: no network outlives its supervisor.
"""

import contextlib
import ctypes
import gc
import importlib
import os
import selectors
import signal
import socket
import struct
import sys
import time
from collections.abc import Sequence
from multiprocessing.connection import Connection
from typing import NoReturn

from infra.logs import setup_logs
from labeling.execution.child import serve

STARTED = struct.Struct("=id")
"""First message about a worker: its process id, and the CPU-seconds of this program since its last worker."""
ENDED = struct.Struct("=i")
"""Last message: its exit code, negative for a signal."""
REQUEST = b"?"
_PR_SET_PDEATHSIG = 1


class _Server:
    """Workers of one supervisor."""

    def __init__(self, requests: socket.socket) -> None:
        self._requests = requests
        self._reports: dict[int, int] = {}
        """File descriptor for the exit code of each running worker, by process id."""
        self._used_s = 0.0

    def run(self) -> None:
        """Serve requests until the supervisor closes the socket."""
        wake, waker = os.pipe()
        os.set_blocking(waker, False)
        signal.signal(signal.SIGCHLD, lambda *_: None)  # has Python write into `waker`
        signal.set_wakeup_fd(waker)
        with selectors.DefaultSelector() as selector:
            selector.register(self._requests, selectors.EVENT_READ, self._answer)
            selector.register(wake, selectors.EVENT_READ, lambda: os.read(wake, 1024))
            while all(event.data() for event, _ in selector.select()):
                self._report_ends()

    def kill(self) -> None:
        """Kill all workers."""
        for pid in self._reports:
            os.kill(pid, signal.SIGKILL)

    def _answer(self) -> bool:
        """Fork a worker; return False if the supervisor has closed the socket."""
        request, files, _, _ = socket.recv_fds(self._requests, len(REQUEST), 2)
        if not request:
            return False
        pipe, report = files
        own_pid = os.getpid()
        pid = os.fork()
        if pid == 0:
            self._run_worker(pipe, own_pid)
        os.close(pipe)
        self._reports[pid] = report
        before, self._used_s = self._used_s, time.process_time()
        with contextlib.suppress(OSError):  # the supervisor no longer waits for it
            os.write(report, STARTED.pack(pid, self._used_s - before))
        return True

    def _report_ends(self) -> None:
        for pid in list(self._reports):
            ended, status = os.waitpid(pid, os.WNOHANG)
            if ended:
                report = self._reports.pop(pid)
                with contextlib.suppress(OSError):
                    os.write(report, ENDED.pack(os.waitstatus_to_exitcode(status)))
                os.close(report)

    def _run_worker(self, pipe: int, server: int) -> NoReturn:
        """Be a worker, in a session of its own: an interrupt at the terminal reaches the supervisor only."""
        code = 1
        try:
            signal.set_wakeup_fd(-1)
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            os.setsid()
            _exit_with_parent(server)
            self._requests.close()
            for report in self._reports.values():
                os.close(report)
            with contextlib.suppress(EOFError, ConnectionError):  # the supervisor closed the pipe
                serve(Connection(pipe))
            code = 0
        except BaseException:
            sys.excepthook(*sys.exc_info())
        finally:
            sys.stderr.flush()
            os._exit(code)


def _exit_with_parent(parent: int) -> None:
    """Have Linux kill this process with its parent: native code that hangs may never read the closed pipe."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:  # the parent ended before the call above
        os._exit(0)


def _main(requests: int, modules: Sequence[str]) -> None:
    setup_logs()
    for module in modules:
        with contextlib.suppress(ImportError):  # the worker that needs it reports it
            importlib.import_module(module)
    gc.collect()
    gc.freeze()  # a collection in a worker would copy the pages of all modules
    server = _Server(socket.socket(fileno=requests))
    try:
        server.run()
    finally:
        server.kill()


if __name__ == "__main__":
    _main(int(sys.argv[1]), sys.argv[2:])
