"""From scores of images to one figure, with an interval over subjects.

Each subject contributes a numerator and a denominator, and a figure is the quotient of their sums. A macro average has
the subject's mean over 1; a micro average has the sum of its similarities over their count. Resampling subjects then
is the same for both.
"""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from evaluation.protocols import Average
from evaluation.scores.image_score import ImageScore
from infra.intervals import wilson_interval

RESAMPLES = 10_000
SEED = 0
Share = tuple[float, float]
"""Numerator and denominator that a subject contributes."""


@dataclass(frozen=True, slots=True)
class Figure:
    """An average with its 95 % interval."""

    value: float
    low: float
    """Lower end of the interval: bootstrap over subjects."""
    high: float
    """Upper end of the interval."""
    images: int
    """Number of images behind the average."""
    subjects: int
    """Number of subjects, or of groups of subjects, behind it."""


def shares_by_subject(scores: Iterable[ImageScore], average: Average) -> dict[str, Share]:
    """Return what each subject contributes; images without a score contribute nothing.

    Args:
        scores: scores of one metric.
        average: order of the means.
    """
    values: dict[str, list[Share]] = defaultdict(list)
    for score in scores:
        if score.value is not None:
            values[score.subjects].append((score.value, score.pairs))
    return {subject: _share(rows, average) for subject, rows in sorted(values.items())}


def _share(rows: Sequence[Share], average: Average) -> Share:
    if average is Average.MACRO:
        return sum(value for value, _ in rows) / len(rows), 1.0
    return sum(value * pairs for value, pairs in rows), float(sum(pairs for _, pairs in rows))


def mean_of(shares: Iterable[Share]) -> float:
    """Return the average that the subjects' shares make."""
    numerators, denominators = np.asarray(list(shares), dtype=np.float64).T
    return float(numerators.sum() / denominators.sum())


def figure(scores: Sequence[ImageScore], average: Average) -> Figure | None:
    """Return the average of the scores of one metric; None if no image has a score."""
    shares = shares_by_subject(scores, average)
    if not shares:
        return None
    low, high = interval(list(shares.values()))
    values = [score.value for score in scores if score.value is not None]
    if set(values) <= {0.0, 1.0}:  # a share: resampling alone finds no doubt in 0 of 10
        alone = wilson_interval(int(sum(values)), len(values))
        low, high = min(low, alone[0]), max(high, alone[1])
    return Figure(mean_of(shares.values()), low, high, len(values), len(shares))


def interval(shares: Sequence[Share]) -> tuple[float, float]:
    """Return the 95 % interval of an average: percentiles over resampled subjects, with a fixed seed."""
    low, high = np.percentile(resampled_means(np.asarray(shares, dtype=np.float64)), (2.5, 97.5))
    return float(low), float(high)


def resampled_means(shares: Float[np.ndarray, "subjects 2"]) -> Float[np.ndarray, " RESAMPLES"]:
    """Return the averages of `RESAMPLES` samples of as many subjects."""
    drawn = shares[resampled_subjects(len(shares))].sum(axis=1)
    return np.asarray(drawn[:, 0] / drawn[:, 1])


def resampled_subjects(count: int) -> np.ndarray:
    """Return the numbers of the subjects in each resample [RESAMPLES, count], the same in each call."""
    return np.random.default_rng(SEED).integers(count, size=(RESAMPLES, count))


def figures_by_group(scores: Iterable[ImageScore], average: Average) -> Mapping[str, Figure]:
    """Return the average of one metric by group of prompts: `place`, `attribute`, `outfit` and others (App. G)."""
    groups: dict[str, list[ImageScore]] = defaultdict(list)
    for score in scores:
        groups[score.group].append(score)
    found = {group: figure(rows, average) for group, rows in sorted(groups.items())}
    return {group: one for group, one in found.items() if one is not None}
