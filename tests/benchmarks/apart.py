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
"""Between two looks at the memory."""
LINE_S = 10.0
"""Between two reports of progress."""


@dataclass(frozen=True)
class Memory:
    """Bytes of a process and all below it."""

    resident: int = 0
    anonymous: int = 0
    """Of `resident`, what no file backs: the system cannot take it back."""

    def most(self, other: "Memory") -> "Memory":
        """The larger one of each figure."""
        return Memory(max(self.resident, other.resident), max(self.anonymous, other.anonymous))


@dataclass(frozen=True)
class Outcome:
    """What became of a call."""

    seconds: float
    cpu_seconds: float | None
    """Of the process and of those below it that ended before it; None where it was killed."""
    peak: Memory
    note: str
    """What the function returned."""
    error: str
    """Why it returned nothing; empty where it did."""


Progress = Callable[[float, Memory], None]
"""Seconds so far, and the memory that is held now."""


def call_apart(
    function: Callable[..., str], arguments: Sequence[Any], log: Path, progress: Progress, preload: Sequence[str]
) -> Outcome:
    """Call `function(*arguments)` in a process of its own; what it prints is in `log`.

    The process is forked from a server that has imported `preload`, whose memory counts as the process's own. It ends
    with this call, also where this call is interrupted, and with the caller's process.
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(list(preload))
    ours, theirs = context.Pipe(duplex=False)
    process = context.Process(target=_call, args=(theirs, log, function, arguments))
    start = time.monotonic()
    process.start()
    theirs.close()
    try:
        peak = _watched(ours, process.pid or 0, start, progress)
        answer: dict[str, Any] = {}
        with contextlib.suppress(EOFError):
            answer = ours.recv()
        process.join()
    finally:
        if process.is_alive():
            kill_family(process.pid or 0)
            process.join()
    seconds = time.monotonic() - start
    peak = peak.most(Memory(resident=answer.get("peak", 0)))
    error = answer.get("error", "") if answer else _death(process.exitcode)
    return Outcome(seconds, answer.get("cpu"), peak, answer.get("note", ""), error)


def _watched(answer: "Connection[Any, Any]", pid: int, start: float, progress: Progress) -> Memory:
    """Wait for an answer, or for the end of the process; returns the peak."""
    peak, reported = Memory(), start
    while not answer.poll(SAMPLE_S):
        now = held_by(pid)
        peak = peak.most(now)
        if time.monotonic() - reported >= LINE_S:
            reported = time.monotonic()
            progress(reported - start, now)
    return peak


def held_by(pid: int) -> Memory:
    """What a process and those below it hold; pages that they share count for each."""
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
    """Largest resident memory of this process so far, exactly: samples may miss a short peak."""
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def _call(answer: "Connection[Any, Any]", log: Path, function: Callable[..., str], arguments: Sequence[Any]) -> None:
    with log.open("ab", buffering=0) as file:
        for stream in (1, 2):
            os.dup2(file.fileno(), stream)
    threading.Thread(target=_end_with_the_caller, daemon=True).start()
    said: dict[str, Any]
    try:
        said = {"note": function(*arguments)}
    except Exception as error:
        traceback.print_exc()
        said = {"error": f"{type(error).__name__}: {(str(error).strip().splitlines() or [''])[0]}"}
    sys.stderr.flush()
    answer.send({**said, "peak": own_peak(), "cpu": sum(os.times()[:4])})


def _end_with_the_caller() -> None:
    """A caller that is killed cannot end this process itself."""
    caller = multiprocessing.parent_process()
    assert caller is not None
    caller.join()
    kill_family(os.getpid())


def _death(exit_code: int | None) -> str:
    if exit_code is not None and exit_code < 0:
        out_of_memory = ", as the system does where memory runs out" if exit_code == -9 else ""
        return f"killed by signal {-exit_code}{out_of_memory}"
    return f"ended with exit code {exit_code} and no answer"
