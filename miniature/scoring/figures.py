"""Figures of all scores: a share or a mean with its confidence interval, as a line of a table."""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from infra.intervals import wilson_interval

RESAMPLES = 1000
_GAP = 2


@dataclass(frozen=True, slots=True)
class Figure:
    """A share or a mean with its 95 % interval."""

    of: Mapping[str, str]
    """Group that the figure describes: words by the headings of their columns."""
    name: str
    value: float
    low: float
    """Lower end of the interval."""
    high: float
    """Upper end of the interval."""
    count: int
    """Number of items behind the share or mean."""


def share(of: Mapping[str, str], name: str, hits: int, count: int) -> Figure:
    """Return the share of `hits` in `count`; 0 where `count` is 0."""
    return Figure(of, name, hits / count if count else 0.0, *wilson_interval(hits, count), count)


def share_by_image(of: Mapping[str, str], name: str, pairs: Sequence[tuple[int, int]]) -> Figure:
    """Return the share of hits, from the hits and the count of each image.

    Errors within an image are correlated, so the interval is at least as wide as that from resampled images.
    """
    hits, count = (sum(column) for column in zip(*pairs, strict=True))
    alone = share(of, name, hits, count)
    if not count:
        return alone
    low, high = bootstrap_interval(pairs)
    return replace(alone, low=min(low, alone.low), high=max(high, alone.high))


def share_of_hits(of: Mapping[str, str], name: str, hits: Sequence[Sequence[bool]]) -> Figure:
    """Return the share of hits, from the hits and misses of each image, as `share_by_image`."""
    return share_by_image(of, name, [(sum(own), len(own)) for own in hits])


def mean_by_image(of: Mapping[str, str], name: str, values: Sequence[Sequence[float]]) -> Figure:
    """Return the mean of the values of all images; there must be at least one value."""
    pairs = [(sum(own), len(own)) for own in values]
    total, count = (sum(column) for column in zip(*pairs, strict=True))
    return Figure(of, name, total / count, *bootstrap_interval(pairs), int(count))


def bootstrap_interval(pairs: Sequence[tuple[float, int]]) -> tuple[float, float]:
    """Return the bootstrap 95 % interval of the sum of the first values divided by the sum of the second.

    It comes from `RESAMPLES` samples of as many pairs, with a fixed seed.
    """
    sums, counts = np.asarray(pairs, dtype=np.float64).T
    samples = np.random.default_rng(0).integers(len(sums), size=(RESAMPLES, len(sums)))
    totals = counts[samples].sum(axis=1)
    ratios = sums[samples].sum(axis=1)[totals > 0] / totals[totals > 0]
    low, high = np.percentile(ratios, (2.5, 97.5))
    return float(low), float(high)


class Table:
    """Formats figures with the same `columns` as lines of a table.

    Args:
        columns: headings of the columns, with the length of each column's longest word.
        name_width: length of the longest name of a figure, in characters.
    """

    def __init__(self, columns: Mapping[str, int], name_width: int) -> None:
        self._widths = {heading: max(len(heading), width) + _GAP for heading, width in columns.items()}
        self._name_width = name_width + _GAP

    @property
    def head(self) -> str:
        """Line of the headings."""
        columns = "".join(heading.ljust(width) for heading, width in self._widths.items())
        return f"{columns}{'figure'.ljust(self._name_width)}value  95 % interval     of"

    def line(self, figure: Figure) -> str:
        """Return the line of a figure."""
        columns = "".join(figure.of[heading].ljust(width) for heading, width in self._widths.items())
        interval = f"{figure.value:.3f}  {figure.low:.3f} to {figure.high:.3f}"
        return f"{columns}{figure.name.ljust(self._name_width)}{interval}{figure.count:>7,}"

    def text(self, figures: Iterable[Figure]) -> str:
        """Return the whole table."""
        return "\n".join([self.head, *map(self.line, figures)])


def write_json(figures: Iterable[Figure], path: Path) -> None:
    """Write the figures as a list of records."""
    records = [
        {**one.of, "figure": one.name, "value": one.value, "low": one.low, "high": one.high, "of": one.count}
        for one in figures
    ]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(records, indent=1) + "\n")
