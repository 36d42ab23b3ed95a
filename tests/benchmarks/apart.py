"""Calls a function in a process of its own, and measures how long it takes and how much memory it holds."""

import contextlib
import multiprocessing
import os
import resource
import sys
import threading
import time
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import psutil

from tests.processes import kill_family

SAMPLE_S = 0.2
"""Seconds between two samples of the memory."""
LINE_S = 10.0
"""Seconds between two reports of progress."""


@dataclass(frozen=True)
class Memory:
    """Memory of a process and its descendants, in bytes."""

    resident: int = 0
    anonymous: int = 0
    """Resident memory that no file backs, which the system cannot drop."""

    def maximum(self, other: "Memory") -> "Memory":
        """Return the larger value of each figure."""
        return Memory(max(self.resident, other.resident), max(self.anonymous, other.anonymous))


@dataclass(frozen=True)
class Outcome:
    """Result and cost of a call."""

    seconds: float
    cpu_seconds: float | None
    """CPU seconds of the process and of its descendants that ended before it; None if it was killed."""
    peak: Memory
    note: str
    """Text that the function returned."""
    error: str
    """Reason for which the function did not return; empty if it did."""


Progress = Callable[[float, Memory], None]
"""Receives the seconds so far and the memory in use."""


def call_apart(
    function: Callable[..., str], arguments: Sequence[Any], log: Path, progress: Progress, preload: Sequence[str]
) -> Outcome:
    """Call `function(*arguments)` in a new process, whose output is appended to `log`.

    The process is forked from a server that has imported `preload`; the memory of these modules counts as the
    process's own. It ends with this call, even if the call is interrupted, and with the caller's process.
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(list(preload))
    ours, theirs = context.Pipe(duplex=False)
    process = context.Process(target=_call, args=(theirs, log, function, arguments))
    start = time.monotonic()
    process.start()
    theirs.close()
    try:
        peak = _wait_for_answer(ours, process.pid or 0, start, progress)
        answer: dict[str, Any] = {}
        with contextlib.suppress(EOFError):
            answer = ours.recv()
        process.join()
    finally:
        if process.is_alive():
            kill_family(process.pid or 0)
            process.join()
    seconds = time.monotonic() - start
    peak = peak.maximum(Memory(resident=answer.get("peak", 0)))
    error = answer.get("error", "") if answer else _describe_exit(process.exitcode)
    return Outcome(seconds, answer.get("cpu"), peak, answer.get("note", ""), error)


def _wait_for_answer(answer: "Connection[Any, Any]", pid: int, start: float, progress: Progress) -> Memory:
    """Wait for an answer or for the end of the process; return the peak memory."""
    peak, reported = Memory(), start
    while not answer.poll(SAMPLE_S):
        now = memory_of(pid)
        peak = peak.maximum(now)
        if time.monotonic() - reported >= LINE_S:
            reported = time.monotonic()
            progress(reported - start, now)
    return peak


def memory_of(pid: int) -> Memory:
    """Return the memory of a process and its descendants; a page that several share counts for each."""
    resident = anonymous = 0
    with contextlib.suppress(psutil.NoSuchProcess):
        process = psutil.Process(pid)
        for member in [process, *process.children(recursive=True)]:
            with contextlib.suppress(psutil.NoSuchProcess, psutil.AccessDenied):
                info = member.memory_info()
                resident += info.rss
                anonymous += info.rss - getattr(info, "shared", 0)
    return Memory(resident, anonymous)


def own_peak() -> int:
    """Return the largest resident memory of this process in bytes, including peaks that samples miss."""
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def _call(answer: "Connection[Any, Any]", log: Path, function: Callable[..., str], arguments: Sequence[Any]) -> None:
    with log.open("ab", buffering=0) as file:
        for stream in (1, 2):
            os.dup2(file.fileno(), stream)
    threading.Thread(target=_exit_with_caller, daemon=True).start()
    result: dict[str, Any]
    try:
        result = {"note": function(*arguments)}
    except Exception as error:
        traceback.print_exc()
        result = {"error": f"{type(error).__name__}: {(str(error).strip().splitlines() or [''])[0]}"}
    sys.stderr.flush()
    answer.send({**result, "peak": own_peak(), "cpu": sum(os.times()[:4])})


def _exit_with_caller() -> None:
    """Kill this process and its descendants when the caller ends, even if the caller is killed."""
    caller = multiprocessing.parent_process()
    assert caller is not None
    caller.join()
    kill_family(os.getpid())


def _describe_exit(exit_code: int | None) -> str:
    if exit_code is not None and exit_code < 0:
        out_of_memory = ", as the system does where memory runs out" if exit_code == -9 else ""
        return f"killed by signal {-exit_code}{out_of_memory}"
    return f"ended with exit code {exit_code} and no answer"
