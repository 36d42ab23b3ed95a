"""Scores that publications print, each with the benchmark and the protocol that it belongs to.

    for row in published_rows("dreambench", "subject-diffusion"):
        print(row.method, row.scores["DINO"], row.source)

Two scores are comparable only on the same list and under the same protocol, so rows are found by both.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from functools import cache

from evaluation.benchmarks.shipped import read_shipped
from evaluation.protocols import Average, Comparison
from infra.config import Config
from infra.ranges import Share


class Tuning(StrEnum):
    """Whether a method trains on the images of a subject before it generates."""

    ZERO_SHOT = "zero-shot"
    FINE_TUNED = "fine-tuned"


@dataclass(frozen=True, slots=True)
class PublishedRow:
    """Scores of one method in one publication."""

    method: str
    """Name of the method."""
    tuning: Tuning | None
    """Whether it is fine-tuned; None for real images and for models without a subject."""
    scores: Mapping[str, float]
    """Score by metric, such as `DINO`, as printed."""
    source: str
    """Publication and table that prints the scores."""
    benchmarks: tuple[str, ...]
    """Names of the benchmarks with the publication's list; empty if the list is unpublished."""
    protocols: tuple[str, ...]
    """Names of the protocols that the publication follows."""
    comparison: Comparison | None
    """Real images that generated ones are compared with; None if the scores need none."""
    average: Average | None
    """Order of the means; None if the publication does not state it."""
    ablation: bool
    """Whether the row is a model with something left out."""
    notes: tuple[str, ...]
    """Cautions and choices, for the foot of a table."""


class _Row(Config):
    method: str
    tuning: Tuning | None = None
    scores: dict[str, Share]
    note: str | None = None


class _Table(Config):
    source: str
    benchmarks: tuple[str, ...]
    protocols: tuple[str, ...]
    comparison: Comparison | None = None
    average: Average | None = None
    ablation: bool = False
    notes: tuple[str, ...] = ()
    rows: tuple[_Row, ...]


class _Lists(Config):
    tables: tuple[_Table, ...]


@cache
def all_published_rows() -> tuple[PublishedRow, ...]:
    """Return the rows of all publications."""
    lists = read_shipped("published.toml", _Lists)
    return tuple(_published_row(table, row) for table in lists.tables for row in table.rows)


def published_rows(benchmark: str, protocol: str, *, ablations: bool = False) -> tuple[PublishedRow, ...]:
    """Return the rows that may stand in a table of this benchmark and this protocol, in the order of their publication.

    Args:
        benchmark: name of the benchmark.
        protocol: name of the protocol.
        ablations: include the rows of ablations.
    """
    return tuple(
        row
        for row in all_published_rows()
        if benchmark in row.benchmarks and protocol in row.protocols and (ablations or not row.ablation)
    )


def _published_row(table: _Table, row: _Row) -> PublishedRow:
    return PublishedRow(
        method=row.method,
        tuning=row.tuning,
        scores=row.scores,
        source=table.source,
        benchmarks=table.benchmarks,
        protocols=table.protocols,
        comparison=table.comparison,
        average=table.average,
        ablation=table.ablation,
        notes=table.notes if row.note is None else (row.note, *table.notes),
    )
