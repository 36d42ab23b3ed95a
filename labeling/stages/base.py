"""What a stage is.

A stage turns images into rows of its own file, or says why not. Its two row classes are its
contract: `reads` names the columns it gets, whichever earlier files hold them, and `writes` is
the row of the file it makes. It touches no disk and knows neither Ray nor Prefect, so a test is
a plain call and a retry is safe.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol, TypeAlias, TypeVar

from infra.config import Config

In = TypeVar("In", contravariant=True)
Out = TypeVar("Out", covariant=True)


@dataclass(frozen=True, slots=True)
class Drop:
    """The image leaves the dataset; `reason` is a word that statistics can count."""

    reason: str
    detail: str = ""
    row: Any = None
    """What the stage's file keeps of the image all the same: a row of `writes`."""


class Stage(Protocol[In, Out]):
    """What makes the rows of one kind of file."""

    name: ClassVar[str]
    """Also the name of the folder of its files."""
    reads: ClassVar[type]
    writes: ClassVar[type]

    @property
    def config(self) -> Config:
        """Every setting that changes what the stage finds; part of the stamp on its files."""

    def setup(self) -> None:
        """Load weights. Called once in each worker process, before the first image."""

    def prepare(self, row: In) -> Any:
        """CPU work on one image (decode, resize). Runs ahead of `process`, in threads; may raise."""

    def process(self, batch: Sequence[Any]) -> Sequence[Out | Drop]:
        """One result per prepared image of `batch`, in order. May raise; the caller then narrows it to the row."""


AnyStage: TypeAlias = Stage[Any, Any]
"""Stage of any row classes."""
