"""Work of a worker process, which `labeling.execution.fork_server` starts.

The process receives batches of rows, prepares them ahead in threads, completes their results behind the network in
another thread, and sends back one outcome per row. It finds a row that raises by bisection. A row that crashes or hangs
the process is found by the supervisor.
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
from typing import Any, TypeAlias

from labeling.errors import BackendWeightsError, LabelingError, StageContract
from labeling.execution.messages import Assignment, BatchResult, KeyedRow, Ready, Reply, Request, WorkerError
from labeling.sdd.schema import State, Verdict
from labeling.sdd.shards import Refused
from labeling.stages.base import AnyStage, Drop, Failure, GroupedStage, OverlappedStage

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
    network_lock: threading.Lock = field(default_factory=threading.Lock)
    """Held while the network runs."""

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
        """Return one outcome per row, whatever the stage raises: see `compute`."""
        return self.finish(rows, self.compute(rows, prepared))

    def compute(self, rows: Sequence[KeyedRow], prepared: Sequence[object]) -> list[object]:
        """Run the network; return what `finish` needs for each row, whatever the stage raises.

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
            _failure(row.key, p) if isinstance(p, Exception) else next(results)
            for row, p in zip(rows, prepared, strict=True)
        ]

    def finish(self, rows: Sequence[KeyedRow], computed: Sequence[object]) -> list[KeyedRow]:
        """Return one outcome per row from the results of `compute`. Safe beside the `compute` of another batch."""
        return [self._finish(row.key, result) for row, result in zip(rows, computed, strict=True)]

    def _finish(self, key: bytes, computed: Any) -> KeyedRow:
        if isinstance(computed, Refused) or not isinstance(self.stage, OverlappedStage):
            return _outcome(key, computed)
        try:
            return _outcome(key, self.stage.finish(computed))
        except Exception as error:
            _exit_if_device_failed(error)
            if not _is_out_of_memory(error):
                return _failure(key, error)
        try:
            with self.network_lock:  # without the memory of the next batch
                return _outcome(key, self.stage.finish(computed))
        except Exception as error:
            return _failure(key, error)

    def _process(self, rows: Sequence[KeyedRow], prepared: Sequence[object]) -> list[object]:
        results: list[object] = []
        start = 0
        while start < len(rows):
            stop = start + self.batch_limit  # an earlier part of the batch may have lowered the limit
            results += self._bisect(rows[start:stop], prepared[start:stop])
            start = stop
        return results

    def take_seconds(self) -> tuple[float, float]:
        """Return the seconds of preparing and of the network since the last call."""
        with self.lock:
            seconds = self.prepare_s, self.process_s
            self.prepare_s = self.process_s = 0.0
        return seconds

    def _bisect(self, rows: Sequence[KeyedRow], prepared: Sequence[object]) -> list[object]:
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

    def _call_stage(self, prepared: Sequence[object]) -> list[object]:
        call = self.stage.compute if isinstance(self.stage, OverlappedStage) else self.stage.process
        with self.network_lock:
            start = time.perf_counter()
            try:
                results: list[object] = list(call(prepared))
            finally:
                with self.lock:
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
    sender = ResultSender(pipe, StageRunner(assignment.stage, assignment.batch_limit))
    stage = assignment.stage
    pipe.send(Ready(sender.used_s, _is_on_gpu(), stage.batch_key if isinstance(stage, GroupedStage) else None))
    batches: BatchQueue = queue.Queue()
    receiver = (pipe, sender.runner, assignment.prepare_threads, batches)
    threading.Thread(target=_receive, args=receiver, daemon=True).start()
    with ThreadPoolExecutor(1) as finisher:
        while True:
            rows, futures = batches.get()
            if not rows:
                _free_gpu_memory()
                continue
            try:
                computed = sender.runner.compute(rows, [future.result() for future in futures])
            except _NOT_OF_A_ROW as error:
                finisher.shutdown()  # sends the results of earlier batches
                pipe.send(WorkerError(str(error), is_final=True))
                return
            finisher.submit(sender.send, rows, computed)


@dataclass
class ResultSender:
    """Completes the results of batches, one after the other, and sends them."""

    pipe: "Connection[Reply, Request]"
    runner: StageRunner
    used_s: float = field(default_factory=time.process_time)
    """CPU-seconds of the process when the last result was sent."""

    def send(self, rows: Sequence[KeyedRow], computed: Sequence[object]) -> None:
        """Send the outcomes of a batch. Ends the process if that fails, as no one reads the exception of a thread."""
        try:
            outcomes = self.runner.finish(rows, computed)
            prepare_s, process_s = self.runner.take_seconds()
            before, self.used_s = self.used_s, time.process_time()
            self.pipe.send(BatchResult(outcomes, self.runner.batch_limit, prepare_s, process_s, self.used_s - before))
        except ConnectionError:
            os._exit(0)  # the supervisor has ended
        except BaseException:
            log.exception("%s: the results of a batch cannot be sent", self.runner.stage.name)
            os._exit(1)


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
