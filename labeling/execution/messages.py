"""Messages between a supervisor and its worker process, pickled over a pipe.

supervisor -> worker   one `Assignment`, then batches: lists of rows; an empty one, without an answer, frees GPU memory
worker -> supervisor   one `Ready`, then a `BatchResult` per batch in the order of the batches; or, before the process
                       exits, a `WorkerError`
"""

from collections.abc import Callable, Hashable
from dataclasses import dataclass
from typing import Any, Protocol, TypeAlias

from labeling.stages.base import AnyStage


class KeyedRow(Protocol):
    """A row that a stage reads, or the outcome of one: both carry the key of the image."""

    @property
    def key(self) -> bytes:
        """Key of the image."""


@dataclass(frozen=True, slots=True)
class Assignment:
    """First message to a worker process: the stage that it runs, and the limits to run it within."""

    stage: AnyStage
    prepare_threads: int
    """Threads that prepare rows ahead of the network."""
    torch_threads: int
    """Threads of the network itself."""
    batch_limit: int
    """Most rows in one call of the stage; an earlier process that ran out of memory may have lowered it."""
    environment: dict[str, str]
    """Environment variables of the process."""


@dataclass(frozen=True, slots=True)
class Ready:
    """The network is loaded and the process accepts batches."""

    cpu_s: float = 0.0
    """CPU-seconds of the process so far."""
    on_gpu: bool = False
    """Whether its network is on a GPU."""
    batch_key: Callable[[Any], Hashable] | None = None
    """Function of a row whose equal values make fast batches (`GroupedStage.batch_key`); None if any rows do."""


@dataclass(frozen=True, slots=True)
class WorkerError:
    """Last message of a process that cannot go on."""

    error: str
    is_final: bool
    """Whether a new process would fail in the same way."""


@dataclass(frozen=True, slots=True)
class BatchResult:
    """Outcomes of one batch."""

    outcomes: list[KeyedRow]
    """One per row, in the order of the batch."""
    batch_limit: int
    """Most rows in one call of the stage from now on."""
    prepare_s: float
    """Thread seconds of decoding and resizing."""
    process_s: float
    """Seconds of the network."""
    cpu_s: float = 0.0
    """CPU-seconds of the process since the message before."""


Request: TypeAlias = Assignment | list[KeyedRow]
"""Message to a worker process."""
Reply: TypeAlias = Ready | WorkerError | BatchResult
"""Message from a worker process."""
