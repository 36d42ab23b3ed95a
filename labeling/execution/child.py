"""The process that runs a stage's network: `python -m labeling.execution.child FD PARENT`.

It gets batches of rows over a pipe, decodes them ahead in threads, and sends back one outcome per row. A row whose
code raises is found by bisection here; a row that kills the process, or hangs it, is the supervisor's to find.
"""

import contextlib
import ctypes
import logging
import os
import queue
import signal
import sys
import threading
import time
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from typing import Any

from infra.logs import setup_logs
from labeling.errors import LabelingError, StageContract
from labeling.sdd.schema import State, Verdict
from labeling.sdd.shards import Refused
from labeling.stages.base import Drop, Stage

log = logging.getLogger(__name__)
POISONED = 70
"""Exit code of a process whose device can compute no more: only a new process helps."""
_PR_SET_PDEATHSIG = 1


@dataclass(frozen=True, slots=True)
class Assignment:
    """The first message: what this process is for."""

    stage: Stage[Any, Any]
    prepare_threads: int
    torch_threads: int
    batch_limit: int
    """Rows at once, as learned from an earlier process that ran out of memory."""


@dataclass(frozen=True, slots=True)
class Ready:
    """The network is loaded."""


@dataclass(frozen=True, slots=True)
class GaveUp:
    """The last message of a process that cannot work; `final` if another process could not either."""

    error: str
    final: bool


@dataclass(frozen=True, slots=True)
class Answer:
    """The outcomes of one batch, in its order."""

    outcomes: list[Any]
    batch_limit: int
    prepare_s: float
    """Thread seconds of decoding and resizing."""
    process_s: float
    """Seconds of the network."""


@dataclass
class Bench:
    """The stage and what was learned about it while it ran."""

    stage: Stage[Any, Any]
    limit: int
    prepare_s: float = 0.0
    process_s: float = 0.0
    lock: threading.Lock = field(default_factory=threading.Lock)

    def prepare(self, row: Any) -> Any:
        """The prepared row, or the exception it raised."""
        start = time.perf_counter()
        try:
            return self.stage.prepare(row)
        except Exception as error:
            return error
        finally:
            with self.lock:
                self.prepare_s += time.perf_counter() - start

    def outcomes(self, rows: Sequence[Any], prepared: Sequence[Any]) -> list[Any]:
        """One outcome per row, whatever the stage raises."""
        good = [i for i, p in enumerate(prepared) if not isinstance(p, Exception)]
        results = iter(self._process([rows[i] for i in good], [prepared[i] for i in good]))
        return [
            _failed(row.key, p) if isinstance(p, Exception) else _outcome(row.key, next(results))
            for row, p in zip(rows, prepared, strict=True)
        ]

    def _process(self, rows: Sequence[Any], prepared: Sequence[Any]) -> list[Any]:
        results: list[Any] = []
        start = 0
        while start < len(rows):
            stop = start + self.limit  # read anew: an earlier part may have lowered it
            results += self._bisect(rows[start:stop], prepared[start:stop])
            start = stop
        return results

    def _bisect(self, rows: Sequence[Any], prepared: Sequence[Any]) -> list[Any]:
        try:
            return self._run(prepared)
        except StageContract:
            raise
        except Exception as error:
            _end_if_poisoned(error)
            if len(rows) == 1:
                return [_failed(rows[0].key, error)]
            half = (len(rows) + 1) // 2
            if _out_of_memory(error):
                self.limit = min(self.limit, half)
                log.warning("%s: out of memory with %d images; %d from now on", self.stage.name, len(rows), half)
        return self._bisect(rows[:half], prepared[:half]) + self._bisect(rows[half:], prepared[half:])

    def _run(self, prepared: Sequence[Any]) -> list[Any]:
        start = time.perf_counter()
        try:
            results = list(self.stage.process(prepared))
        finally:
            self.process_s += time.perf_counter() - start
        if len(results) != len(prepared):
            raise StageContract(f"{self.stage.name}: {len(results)} results for {len(prepared)} images")
        return results


def serve(pipe: "Connection[Any, Any]") -> None:
    """Load the network, then answer batches until the supervisor hangs up."""
    assignment: Assignment = pipe.recv()
    _bound_threads(assignment.torch_threads)
    try:
        assignment.stage.setup()
    except Exception as error:
        log.exception("%s: the network did not load", assignment.stage.name)
        pipe.send(GaveUp(f"{type(error).__name__}: {error}", final=isinstance(error, LabelingError)))
        return
    pipe.send(Ready())
    bench = Bench(stage=assignment.stage, limit=assignment.batch_limit)
    batches: queue.Queue[tuple[list[Any], list[Future[Any]]]] = queue.Queue()
    threading.Thread(target=_receive, args=(pipe, bench, assignment.prepare_threads, batches), daemon=True).start()
    while True:
        rows, futures = batches.get()
        try:
            outcomes = bench.outcomes(rows, [future.result() for future in futures])
        except StageContract as error:
            pipe.send(GaveUp(str(error), final=True))
            return
        pipe.send(Answer(outcomes, bench.limit, bench.prepare_s, bench.process_s))
        bench.prepare_s = bench.process_s = 0.0


def _receive(pipe: "Connection[Any, Any]", bench: Bench, threads: int, batches: "queue.Queue[Any]") -> None:
    with ThreadPoolExecutor(threads) as pool:
        while True:
            try:
                rows = pipe.recv()
            except EOFError:
                os._exit(0)  # the supervisor is gone or done
            batches.put((rows, [pool.submit(bench.prepare, row) for row in rows]))


def _outcome(key: bytes, result: Any) -> Any:
    if isinstance(result, Drop):
        verdict = Verdict(state=State.DROPPED, reason=result.reason, detail=result.detail)
        return Refused(key=key, verdict=verdict, row=result.row)
    return result


def _failed(key: bytes, error: Exception) -> Refused:
    return Refused(
        key=key, verdict=Verdict(state=State.FAILED, reason=type(error).__name__, detail=str(error).strip()[:500])
    )


def _out_of_memory(error: Exception) -> bool:
    text = str(error).lower()
    return (
        isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError" or "can't allocate memory" in text
    )


def _end_if_poisoned(error: Exception) -> None:
    """After a CUDA error other than out-of-memory every later call fails too; later rows must not be failed for it.

    To the supervisor it is a death like any other: a row that alone poisons new processes is the cause, and where all
    rows do it is the device.
    """
    if "CUDA error" in str(error) and not _out_of_memory(error):
        log.error("the device can compute no more: %s", error)
        os._exit(POISONED)


def _bound_threads(count: int) -> None:
    """The network's own threads; read by OpenMP and BLAS when they load, which is in `setup`."""
    for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
        os.environ[name] = str(count)
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")


def _die_with_parent(parent: int) -> None:
    """Linux: a hang that holds the interpreter lock hears no pipe, but the kernel ends it with its supervisor."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:  # it died before the kernel knew
        os._exit(0)


if __name__ == "__main__":
    _die_with_parent(int(sys.argv[2]))
    setup_logs()
    from labeling.execution.child import serve as _serve  # the same classes as the supervisor's, not those of __main__

    with contextlib.suppress(EOFError, ConnectionError):  # the supervisor hung up
        _serve(Connection(int(sys.argv[1])))
