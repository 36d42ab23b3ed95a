"""Batches for a worker, made ahead by processes of its own."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from model.batch import SubjectBatch
from model.config import ModelConfig
from model.prompt import PromptTokenizer
from training.data.config import DataConfig
from training.data.plan import Plan, PlannedRow


@dataclass(frozen=True, slots=True)
class Skipped:
    """A row that cannot be trained on."""

    row: PlannedRow
    key: bytes
    reason: str
    """One countable word."""
    detail: str


@dataclass(frozen=True, slots=True)
class LoadedBatch:
    """A batch of the plan, without its poisoned rows."""

    batch: SubjectBatch | None
    """On the host, pinned where there is a GPU; None where every row was skipped."""
    number: int
    """Of the batch, in the plan."""
    keys: tuple[bytes, ...]
    """Of the rows in `batch`, in their order."""
    skipped: tuple[Skipped, ...]

    @property
    def rows(self) -> int:
        """How many rows `batch` has."""
        return len(self.keys)


def batches(
    plan: Plan,
    config: DataConfig,
    model: ModelConfig,
    prompts: PromptTokenizer,
    mean: Sequence[float],
    numbers: Iterable[int],
) -> Iterator[LoadedBatch]:
    """The batches `numbers` of the plan, in this order.

    Args:
        prompts: the network's.
        mean: colour of the image encoder, as `ImageEncoder.mean`.

    Raises:
        DatasetError: a shard is gone, damaged, or was made anew since the plan was read.
    """
    raise NotImplementedError
