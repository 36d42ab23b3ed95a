"""Work of a worker process, which `labeling.execution.fork_server` starts.

The process receives batches of rows, prepares them ahead in threads, and sends back one outcome per row. It finds a row
that raises by bisection. A row that crashes or hangs the process is found by the supervisor.
"""

import logging
import os
import queue
import sys
import threading
import time
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from typing import TypeAlias

from labeling.errors import BackendWeightsError, LabelingError, StageContract
from labeling.execution.messages import Assignment, BatchResult, KeyedRow, Ready, Reply, Request, WorkerError
from labeling.sdd.schema import State, Verdict
from labeling.sdd.shards import Refused
from labeling.stages.base import AnyStage, Drop, Failure, GroupedStage

log = logging.getLogger(__name__)
_NOT_OF_A_ROW = (StageContract, BackendWeightsError)
"""Errors of a stage that no row causes; a stage may load its weights with the first row that needs them."""
DEVICE_FAILED = 70
"""Exit code of a process whose device fails every call; only a new process can use the device again."""
_MEMORY_CURE = "labeling.keep_networks=false keeps one stage's networks in memory at a time"
BatchQueue: TypeAlias = "queue.Queue[tuple[list[KeyedRow], list[Future[object]]]]"
"""Batches that were received: the rows, and the future of each prepared row."""


@dataclass
class StageRunner:
    """Runs a stage on batches, and narrows an error down to the rows that cause it."""

    stage: AnyStage
    batch_limit: int
    """Most rows in one call of the stage; halved when memory runs out."""
    prepare_s: float = 0.0
    """Thread seconds of preparing rows since the last result."""
    process_s: float = 0.0
    """Seconds of the network since the last result."""
    lock: threading.Lock = field(default_factory=threading.Lock)

    def prepare(self, row: KeyedRow) -> object:
        """Return the prepared row, or the exception that preparing it raised."""
        start = time.perf_counter()
        try:
            return self.stage.prepare(row)
        except Exception as error:
            return error
        finally:
            with self.lock:
                self.prepare_s += time.perf_counter() - start

    def run(self, rows: Sequence[KeyedRow], prepared: Sequence[object]) -> list[KeyedRow]:
        """Return one outcome per row, whatever the stage raises.

        Args:
            rows: rows of a batch.
            prepared: result of `prepare` for each of them.

        Raises:
            StageContract: the stage returned another number of results than it got rows.
            BackendWeightsError: the stage loads weights with the first row that needs them, and cannot.
        """
        for error in prepared:
            if isinstance(error, _NOT_OF_A_ROW):
                raise error
        good = [i for i, p in enumerate(prepared) if not isinstance(p, Exception)]
        results = iter(self._process([rows[i] for i in good], [prepared[i] for i in good]))
        return [
            _failure(row.key, p) if isinstance(p, Exception) else _outcome(row.key, next(results))
            for row, p in zip(rows, prepared, strict=True)
        ]

    def _process(self, rows: Sequence[KeyedRow], prepared: Sequence[object]) -> list[KeyedRow | Drop | Failure]:
        results: list[KeyedRow | Drop | Failure] = []
        start = 0
        while start < len(rows):
            stop = start + self.batch_limit  # an earlier part of the batch may have lowered the limit
            results += self._bisect(rows[start:stop], prepared[start:stop])
            start = stop
        return results

    def _bisect(self, rows: Sequence[KeyedRow], prepared: Sequence[object]) -> list[KeyedRow | Drop | Failure]:
        try:
            return self._call_stage(prepared)
        except _NOT_OF_A_ROW:
            raise
        except Exception as error:
            _exit_if_device_failed(error)
            if len(rows) == 1:
                return [_failure(rows[0].key, error)]
            half = (len(rows) + 1) // 2
            if _is_out_of_memory(error):
                self.batch_limit = min(self.batch_limit, half)
                words = "%s: out of memory with %d images; %d from now on. %s"
                log.warning(words, self.stage.name, len(rows), half, _MEMORY_CURE)
        return self._bisect(rows[:half], prepared[:half]) + self._bisect(rows[half:], prepared[half:])

    def _call_stage(self, prepared: Sequence[object]) -> list[KeyedRow | Drop | Failure]:
        start = time.perf_counter()
        try:
            results: list[KeyedRow | Drop | Failure] = list(self.stage.process(prepared))
        finally:
            self.process_s += time.perf_counter() - start
        if len(results) != len(prepared):
            raise StageContract(f"{self.stage.name}: {len(results)} results for {len(prepared)} images")
        return results


def serve(pipe: "Connection[Reply, Request]") -> None:
    """Load the network, then process batches until the supervisor closes the pipe."""
    assignment = pipe.recv()
    assert isinstance(assignment, Assignment), "the supervisor sends it first"
    os.environ.clear()  # a fork has that of the server at its start
    os.environ.update(assignment.environment)
    _limit_threads(assignment.torch_threads)
    try:
        assignment.stage.setup()
    except Exception as error:
        if not isinstance(error, LabelingError):  # its message says all that a user needs
            log.exception("%s: the network did not load", assignment.stage.name)
        cure = f". {_MEMORY_CURE}" if _is_out_of_memory(error) else ""
        pipe.send(WorkerError(f"{type(error).__name__}: {error}{cure}", is_final=isinstance(error, LabelingError)))
        return
    used = time.process_time()
    stage = assignment.stage
    pipe.send(Ready(used, _is_on_gpu(), stage.batch_key if isinstance(stage, GroupedStage) else None))
    runner = StageRunner(stage=assignment.stage, batch_limit=assignment.batch_limit)
    batches: BatchQueue = queue.Queue()
    threading.Thread(target=_receive, args=(pipe, runner, assignment.prepare_threads, batches), daemon=True).start()
    while True:
        rows, futures = batches.get()
        if not rows:
            _free_gpu_memory()
            continue
        try:
            outcomes = runner.run(rows, [future.result() for future in futures])
        except _NOT_OF_A_ROW as error:
            pipe.send(WorkerError(str(error), is_final=True))
            return
        before, used = used, time.process_time()
        pipe.send(BatchResult(outcomes, runner.batch_limit, runner.prepare_s, runner.process_s, used - before))
        runner.prepare_s = runner.process_s = 0.0


def _receive(pipe: "Connection[Reply, Request]", runner: StageRunner, threads: int, batches: BatchQueue) -> None:
    with ThreadPoolExecutor(threads) as pool:
        while True:
            try:
                rows = pipe.recv()
            except EOFError:
                os._exit(0)  # the supervisor has ended or is done
            assert isinstance(rows, list), "batches follow the assignment"
            batches.put((rows, [pool.submit(runner.prepare, row) for row in rows]))


def _outcome(key: bytes, result: KeyedRow | Drop | Failure) -> KeyedRow:
    if isinstance(result, Failure):
        verdict = Verdict(state=State.FAILED, reason=result.reason, detail=result.detail[:500])
        return Refused(key=key, verdict=verdict)
    if isinstance(result, Drop):
        verdict = Verdict(state=State.DROPPED, reason=result.reason, detail=result.detail)
        return Refused(key=key, verdict=verdict, row=result.row)
    return result


def _failure(key: bytes, error: Exception) -> Refused:
    return Refused(
        key=key, verdict=Verdict(state=State.FAILED, reason=type(error).__name__, detail=str(error).strip()[:500])
    )


def _is_on_gpu() -> bool:
    """Return whether the stage has begun to use CUDA; it does not import PyTorch, as some stages do without."""
    torch = sys.modules.get("torch")
    return torch is not None and bool(torch.cuda.is_initialized())


def _free_gpu_memory() -> None:
    """Return the memory that PyTorch keeps for later batches to the GPU, where other stages may need it."""
    if _is_on_gpu():
        sys.modules["torch"].cuda.empty_cache()


def _is_out_of_memory(error: Exception) -> bool:
    text = str(error).lower()
    return (
        isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError" or "can't allocate memory" in text
    )


def _exit_if_device_failed(error: Exception) -> None:
    """End the process after a CUDA error other than out-of-memory: every later call would fail as well.

    The rows must not be marked as failed for that. The supervisor treats the exit as any other death: a row that ends
    new processes while it is alone is the cause; if all rows do, the device is.
    """
    if "CUDA error" in str(error) and not _is_out_of_memory(error):
        log.error("the device fails every call: %s", error)
        os._exit(DEVICE_FAILED)


def _limit_threads(count: int) -> None:
    """Limit the network's own threads. PyTorch may be loaded already; other libraries read the variables in `setup`."""
    for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
        os.environ[name] = str(count)
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    if (torch := sys.modules.get("torch")) is not None:
        torch.set_num_threads(count)
