"""Processes that tests start: none outlives the test, or the module, whose fixture it was started by.

Where the tests themselves are killed, no fixture runs: then a guard, this module as a program, ends what they started.

`start` runs a program. `fork` calls a function in a process that a fork server makes: the server imports torch and the
trainer once, where each new interpreter takes seconds of CPU for it.
"""

import multiprocessing
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import cache
from multiprocessing.connection import Connection
from typing import Any, Self

import psutil

PATIENCE_S = 15 * 60.0
"""How long a test waits for an event: longer than any loaded machine takes, so that only a hang reaches it."""
PRELOAD = ["training.data.loader", "training.loop", "training.network"]


def wait_until(what: str, happened: Callable[[], object], alive: Callable[[], object] = lambda: True) -> None:
    """Return when `happened()` is true.

    Args:
        alive: what must stay true meanwhile, such as a process that runs.
    """
    deadline = time.monotonic() + PATIENCE_S
    while not happened():
        assert alive(), f"{what} can no longer happen"
        assert time.monotonic() < deadline, f"{what} did not happen within {PATIENCE_S:g} s"
        time.sleep(0.02)


@contextmanager
def interruptible() -> Iterator[None]:
    """Processes started inside the block end by SIGINT, also where this one ignores it, as under `nohup` or `&`."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


class Forked:
    """A call of `function` in a process of its own.

    Args:
        function: of a module that the process can import.
    """

    def __init__(self, function: Callable[..., Any], arguments: Sequence[Any]) -> None:
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload(PRELOAD)
        self._answer, theirs = context.Pipe(duplex=False)
        self.process = context.Process(target=_call, args=(theirs, function, arguments))
        self.process.start()
        theirs.close()

    def result(self) -> Any:
        """What the call returned; raises what it raised, and `EOFError` where its process ended before."""
        assert self._answer.poll(PATIENCE_S), f"{self.process} gave no answer within {PATIENCE_S:g} s"
        answer = self._answer.recv()
        if isinstance(answer, BaseException):
            raise answer
        return answer

    def exit_code(self) -> int | None:
        """The exit code, once the process has ended."""
        self.process.join(PATIENCE_S)
        return self.process.exitcode


def _call(answer: "Connection[Any, Any]", function: Callable[..., Any], arguments: Sequence[Any]) -> None:
    try:
        answer.send(function(*arguments))
    except Exception as error:
        answer.send(error)


class Processes:
    """Starts processes, and ends those that are left after its block, with the processes below them."""

    def __init__(self) -> None:
        self._programs: list[subprocess.Popen[Any]] = []
        self._calls: list[Forked] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.end()

    def start(self, command: Sequence[str], **options: Any) -> "subprocess.Popen[Any]":
        """As `subprocess.Popen`."""
        with interruptible():
            program = subprocess.Popen(command, **options)
        self._programs.append(program)
        end_with_tests(program.pid)
        return program

    def fork(self, function: Callable[..., Any], *arguments: Any) -> Forked:
        """Call `function(*arguments)` in a process of its own."""
        self._calls.append(Forked(function, arguments))
        end_with_tests(self._calls[-1].process.pid)
        return self._calls[-1]

    def end(self) -> None:
        """Kill what still runs."""
        for call in self._calls:
            if call.process.is_alive():
                kill_family(call.process.pid)
            call.process.join()
        for program in self._programs:
            if program.poll() is None:
                kill_family(program.pid)
            program.wait()
            for pipe in filter(None, (program.stdin, program.stdout, program.stderr)):
                pipe.close()


def kill_family(pid: int) -> None:
    """Kill a process and those below it, as far as they still run."""
    with suppress(psutil.NoSuchProcess):
        process = psutil.Process(pid)
        for member in [*process.children(recursive=True), process]:
            with suppress(psutil.NoSuchProcess):
                member.kill()


def end_with_tests(pid: int | None) -> None:
    """Let the guard kill a process, and those below it, once this process has ended."""
    pids = _guard().stdin
    assert pids is not None
    pids.write(f"{pid}\n")
    pids.flush()


@cache
def _guard() -> "subprocess.Popen[str]":
    """Start the guard; the pipe to it closes when this process ends, however it ends."""
    return subprocess.Popen([sys.executable, __file__], stdin=subprocess.PIPE, text=True, start_new_session=True)


def kill_what_is_left(pids: Iterable[str]) -> None:
    """Read numbers of processes, and when there are no more, kill the families of those that still run."""
    started = []
    for pid in pids:
        with suppress(psutil.NoSuchProcess):
            started.append(psutil.Process(int(pid)))  # remembers its start: the system gives numbers again
    for process in started:
        if process.is_running():
            kill_family(process.pid)


if __name__ == "__main__":
    kill_what_is_left(sys.stdin)
