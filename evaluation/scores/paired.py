"""Tests of the difference between two models on the same subjects."""

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import product

import numpy as np

from evaluation.scores.averages import RESAMPLES, SEED, Share, mean_of, resampled_subjects

EXACT_SUBJECTS = 14
"""Subjects up to which the permutation test tries all 2^n exchanges; beyond, a sample of them."""


@dataclass(frozen=True, slots=True)
class Comparison:
    """The difference of two averages, the second minus the first."""

    first: float
    second: float
    difference: float
    low: float
    """Lower end of the difference's 95 % interval: paired bootstrap over subjects."""
    high: float
    """Upper end of the interval."""
    p_value: float
    """Share of random exchanges of the models, subject by subject, that differ at least as much (two-sided)."""
    subjects: int
    """Number of subjects that both have."""

    @property
    def differs(self) -> bool:
        """Whether the interval excludes 0."""
        return not self.low <= 0 <= self.high


def compare(first: Mapping[str, Share], second: Mapping[str, Share]) -> Comparison:
    """Compare two models on the same subjects, by one metric.

    Args:
        first: what each subject contributes to the first model's average.
        second: likewise for the second.

    Raises:
        ValueError: the subjects differ, or there are none.
    """
    if not first or first.keys() != second.keys():
        only = sorted(first.keys() ^ second.keys())
        raise ValueError(f"paired tests take the same subjects; in one alone: {', '.join(only[:10]) or 'none in both'}")
    pairs = np.asarray([(first[name], second[name]) for name in sorted(first)], dtype=np.float64)  # [subjects, 2, 2]
    drawn = pairs[resampled_subjects(len(pairs))].sum(axis=1)
    low, high = np.percentile(_difference(drawn), (2.5, 97.5))
    before, after = mean_of(pairs[:, 0]), mean_of(pairs[:, 1])
    return Comparison(before, after, after - before, float(low), float(high), _permutation_p(pairs), len(pairs))


def _difference(sums: np.ndarray) -> np.ndarray:
    """Return the second average minus the first, from sums of shares [..., 2, 2]."""
    means = sums[..., 0] / sums[..., 1]
    return np.asarray(means[..., 1] - means[..., 0])


def _permutation_p(pairs: np.ndarray) -> float:
    count = len(pairs)
    if count <= EXACT_SUBJECTS:
        exchanged = np.asarray(list(product((False, True), repeat=count)))
    else:
        exchanged = np.random.default_rng(SEED).random((RESAMPLES, count)) < 0.5
        exchanged[0] = False  # what was observed is one of the possibilities, so that p is never 0
    kept = np.einsum("en,nmd->emd", ~exchanged, pairs) + np.einsum("en,nmd->emd", exchanged, pairs[:, ::-1])
    observed = abs(_difference(pairs.sum(axis=0)))
    return float((np.abs(_difference(kept)) >= observed - 1e-12).mean())
