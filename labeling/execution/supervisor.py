"""Passes the rows of a shard through a worker process. A row that crashes or hangs it gets an outcome too.

row raises                      `failed`, with the exception: the worker bisects the batch
batch does not fit in memory    halved by the worker; the smaller size is kept
process crashes or hangs        its rows are replayed one by one; one that does so again, alone, is `quarantined`
process is killed               the same, but a row is quarantined only after two deaths alone
supervisor dies                 there is no file; the next process to run the shard reads the journal
"""

import logging
import time
from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from labeling.errors import StageContract, StageFailed
from labeling.execution.batches import Batcher, OutcomeOrder
from labeling.execution.journal import Journal
from labeling.execution.messages import BatchResult, KeyedRow, WorkerError
from labeling.execution.process import ProcessDied, StageProcess
from labeling.sdd.schema import State, Verdict
from labeling.sdd.shards import Refused

log = logging.getLogger(__name__)
IN_FLIGHT = 3
"""Batches that a process has at a time: one is decoded, one is computed, and results of one are completed."""


@dataclass
class ShardPass:
    """One pass over the rows of a shard. `IN_FLIGHT` batches are in flight: decoded, computed, completed.

    A stage may have its batches of rows of a kind (`labeling.stages.base.GroupedStage`), which are not neighbours.
    """

    process: StageProcess
    journal: Journal
    done: int = 0
    """Rows that have an outcome."""
    deaths: int = 0
    """Worker processes that ended."""
    deaths_without_progress: int = 0
    """Worker processes that ended since the last batch was finished."""
    prepare_s: float = 0.0
    """Thread seconds of decoding and resizing."""
    process_s: float = 0.0
    """Seconds of the network."""
    start_s: float = 0.0
    """Seconds in which processes started and loaded the network."""
    cpu_s: float = 0.0
    """CPU-seconds of the processes, without their starts."""
    in_flight: deque[list[KeyedRow]] = field(default_factory=deque)
    """Batches that were sent and have no result yet."""
    todo: deque[list[KeyedRow]] = field(default_factory=deque)
    """Batches to send before the next rows are read."""

    def outcomes(self, rows: Iterable[KeyedRow]) -> Iterator[KeyedRow]:
        """Yield one outcome per row, in order.

        Raises:
            StageFailed: the process does not start, or exits on every row that it receives.
        """
        order = OutcomeOrder()
        batches = self._batches(rows, order)
        while True:
            for outcome in self._send_batches(batches):
                yield from order.add(outcome)
            if not self.in_flight:
                return
            for outcome in self._receive():
                yield from order.add(outcome)

    def skip(self) -> None:
        """Count a row that got its outcome without the process."""
        self.done += 1
        if self.done % self.process.workers.batch_size == 0:
            self._write_journal()

    def _send_batches(self, batches: Iterator[list[KeyedRow]]) -> Iterator[KeyedRow]:
        """Send batches until enough are in flight; a suspect is sent alone. Yield outcomes of quarantined rows."""
        while len(self.in_flight) < IN_FLIGHT:
            batch = self.todo.popleft() if self.todo else next(batches, None)
            if batch is None:
                return
            is_suspect = self._is_suspect(batch)
            if self.in_flight and (is_suspect or self._is_suspect(self.in_flight[0])):
                self.todo.appendleft(batch)
                return
            if is_suspect and (cause := self.journal.quarantine_cause(batch[0].key)) is not None:
                yield from self._finish(batch, [_quarantined(batch[0].key, cause)])
            else:
                self._send(batch)

    def _batches(self, rows: Iterable[KeyedRow], order: OutcomeOrder) -> Iterator[list[KeyedRow]]:
        """Yield batches of rows; a suspect is a batch of its own. The rows are added to `order` as they are read."""
        batcher: Batcher | None = None
        for row in rows:
            order.expect(row)
            if self.journal.is_suspect(row.key):
                yield [row]
                continue
            if batcher is None:
                self._start()  # it tells how rows are grouped
                batcher = Batcher(self.process.batch_key, lambda: self.process.batch_limit)
            yield from batcher.add(row)
        if batcher is not None:
            yield from batcher.rest()

    def _is_suspect(self, batch: list[KeyedRow]) -> bool:
        return len(batch) == 1 and self.journal.is_suspect(batch[0].key)

    def _send(self, batch: list[KeyedRow]) -> None:
        self._start()
        self.in_flight.append(batch)
        self._write_journal()
        try:
            self.process.send(batch)
        except ProcessDied as death:
            self._requeue(death)

    def _start(self) -> None:
        """Start the process unless it runs."""
        before = time.monotonic()
        if self.process.pid is None:
            self.journal.note_loading()
        self.process.start()
        self.start_s += time.monotonic() - before

    def _receive(self) -> list[KeyedRow]:
        try:
            message = self.process.receive(self.process.workers.batch_deadline_s)
        except ProcessDied as death:
            self._requeue(death)
            return []
        if isinstance(message, WorkerError):
            raise StageFailed(message.error)
        assert isinstance(message, BatchResult)
        self.deaths_without_progress = 0
        self.process.batch_limit = message.batch_limit
        self.prepare_s += message.prepare_s
        self.process_s += message.process_s
        self.cpu_s += message.cpu_s
        return self._finish(self.in_flight.popleft(), message.outcomes)

    def _finish(self, batch: list[KeyedRow], outcomes: list[KeyedRow]) -> list[KeyedRow]:
        if [outcome.key for outcome in outcomes] != [row.key for row in batch]:
            self.process.discard()
            raise StageContract(f"{self.process.stage.name}: the keys of the outcomes are not those of the batch")
        self.done += len(batch)
        self._write_journal()
        return outcomes

    def _write_journal(self) -> None:
        self.journal.note_in_flight((row.key for batch in self.in_flight for row in batch), self.done)

    def _requeue(self, death: ProcessDied) -> None:
        """Put the rows in flight back to the front, one by one, after the process has ended."""
        if self.process.closed:
            self.journal.note_in_flight((), self.done)
            raise StageFailed(f"{self.process.stage.name}: stopped")
        log.warning("%s: the worker process ended (%s)", self.process.stage.name, death)
        self.journal.note_death(str(death), death.crashed_or_hung)
        self.todo.extendleft([row] for batch in reversed(self.in_flight) for row in reversed(batch))
        self.in_flight.clear()
        self.deaths += 1
        self.deaths_without_progress += 1
        if self.deaths_without_progress > 2 * IN_FLIGHT * self.process.workers.batch_size + 2:  # each row twice
            self.journal.remove()  # the next run must not quarantine rows for these deaths
            raise StageFailed(
                f"{self.process.stage.name}: the worker process ended {self.deaths_without_progress} times without "
                f"finishing an image, last: {death}. It is not the images: look at the device and the log above"
            )


def _quarantined(key: bytes, cause: str) -> Refused:
    reason = "hang" if cause.startswith("no answer") else "crash"
    return Refused(key=key, verdict=Verdict(state=State.QUARANTINED, reason=reason, detail=cause))
