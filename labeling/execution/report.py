"""Reports of shards: what a worker did with one shard, in a few numbers that cross process borders."""

import logging
from collections.abc import Iterable
from dataclasses import dataclass, field

from labeling.errors import LabelingError, StageFailed, StageInterrupted

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class ShardReport:
    """Result of one shard in one layer."""

    stage: str
    shard: str
    counts: dict[str, int] = field(default_factory=dict)
    """Images by state."""
    reused: bool = False
    """Whether the file was there already."""
    seconds: float = 0.0
    """Seconds from the start of the shard to its file."""
    prepare_s: float = 0.0
    """Thread seconds of decoding and resizing."""
    process_s: float = 0.0
    """Seconds of the network."""
    start_s: float = 0.0
    """Part of `seconds` in which worker processes started and loaded the network."""
    cpu_s: float = 0.0
    """CPU-seconds of the shard, in its worker process and in the supervisor; those of `start_cpu_s` left out."""
    start_cpu_s: float = 0.0
    """CPU-seconds of the worker processes that started, until they had loaded the network."""
    starts: int = 0
    """Worker processes that started."""
    on_gpu: bool = False
    """Whether the network was on a GPU."""
    deaths: int = 0
    """Worker processes that ended while they had rows of the shard."""
    error: str | None = None
    """Reason why there is no file; None where there is one."""
    retryable: bool = False
    """Whether another try may succeed: the error is not a `LabelingError`, but that of a storage, for example."""


def failure_report(stage: str, shard: str, error: Exception) -> ShardReport:
    """Return the report of a shard whose file was not made; log an error other than a `LabelingError` in full."""
    retryable = not isinstance(error, LabelingError)
    if retryable:
        log.exception("%s %s", stage, shard)
    text = f"{stage} {shard}: {type(error).__name__}: {error}"
    return ShardReport(stage=stage, shard=shard, error=text, retryable=retryable)


def raise_failures(reports: Iterable[ShardReport]) -> None:
    """Raise the first error of the reports, if there is one. Errors that a person has to act on come first.

    Raises:
        StageFailed: a file could not be made.
        StageInterrupted: the same, and every error is retryable.
    """
    failed = [report for report in reports if report.error]
    if not failed:
        return
    first = min(failed, key=lambda report: report.retryable)
    more = f" (and {len(failed) - 1} more shards)" if len(failed) > 1 else ""
    raise (StageInterrupted if first.retryable else StageFailed)(f"{first.error}{more}")
