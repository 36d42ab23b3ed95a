"""The contract of a stage.

A stage turns each image into a row of its own file, or drops it with a reason. Its two row classes are part of the
contract: `reads` lists the columns of its input, which may come from several earlier files, and `writes` is the row of
its output file. A stage reads and writes no files and knows neither Ray nor Prefect, so a test is a plain call and a
retry is safe.
"""

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol, TypeVar, runtime_checkable

from infra.config import Config

In = TypeVar("In", contravariant=True)
Prepared = TypeVar("Prepared")
Computed = TypeVar("Computed")
Out = TypeVar("Out", covariant=True)


@dataclass(frozen=True, slots=True)
class Drop:
    """Decision of a stage that an image leaves the dataset."""

    reason: str
    """Reason as one word, so that rows can be counted by it."""
    detail: str = ""
    """Further explanation for a person."""
    row: object = None
    """Row of `writes` that the file stores although the image is dropped; None for no row."""


@dataclass(frozen=True, slots=True)
class Failure:
    """Failure of a stage on one image, whose neighbours in the batch have results."""

    reason: str
    """Reason as one word, so that rows can be counted by it."""
    detail: str = ""
    """Further explanation for a person."""


class Stage(Protocol[In, Prepared, Out]):
    """Interface of a stage, which makes the rows of one layer."""

    name: ClassVar[str]
    """Name of the stage, and of its layer."""
    reads: ClassVar[type]
    """Row class of its input."""
    writes: ClassVar[type]
    """Row class of its output."""

    @property
    def config(self) -> Config:
        """Settings that change the stage's results; part of the stamp of its files."""

    def setup(self) -> None:
        """Load weights. Called once in each worker process, before the first image."""

    def prepare(self, row: In) -> Prepared:
        """Decode and resize one image, on the CPU. Runs ahead of `process`, in threads; may raise."""

    def process(self, batch: Sequence[Prepared]) -> Sequence[Out | Drop | Failure]:
        """Return one result per prepared image of `batch`, in order. May raise; the caller then retries row by row."""


@runtime_checkable
class GroupedStage(Protocol[In]):
    """Interface of a stage whose network computes some rows together, and others one after the other."""

    @property
    def batch_key(self) -> Callable[[In], Hashable] | None:
        """Function of a row whose equal values make fast batches; None if any rows do. Picklable; after `setup`."""


@runtime_checkable
class OverlappedStage(Protocol[In, Computed, Out]):
    """Interface of a stage that completes its results while its network computes the next batch.

    `process` of such a stage is `compute`, then `finish` for each result.
    """

    def compute(self, batch: Sequence[In]) -> Sequence[Computed]:
        """Run the network on prepared images; return what `finish` needs for each. May raise, as `process` may."""

    def finish(self, computed: Computed) -> Out | Drop | Failure:
        """Complete the result of an image, in a thread beside the network. May raise; out of memory, it is repeated."""


AnyStage = Stage[Any, Any, Any]
"""A stage whose row types are known at run time only."""
