"""Missing, swapped and merged subjects: what a mean over subjects hides.

An image is cut into regions, one for each subject: where it was asked for, or where a detector found it. The
similarities of regions and subjects then tell whether each subject is there, and in its own region.
"""

from enum import StrEnum
from itertools import permutations

import numpy as np
from jaxtyping import Float


class Presence(StrEnum):
    """Subjects of an image with several."""

    IN_PLACE = "in_place"
    """Each subject is in its own region."""
    MISSING = "missing"
    """A subject is like no region."""
    SWAPPED = "swapped"
    """All subjects are there, and fit each other's regions better than their own."""
    MERGED = "merged"
    """Two subjects are like the same region, and no other: one thing with traits of both."""


def judge_presence(similarities: Float[np.ndarray, "S S"], threshold: float) -> Presence:
    """Return the presence of an image's subjects.

    Args:
        similarities: similarity of each region (rows) to each subject (columns).
        threshold: similarity from which a region shows a subject.
    """
    shown = similarities >= threshold
    if not shown.any(axis=0).all():
        return Presence.MISSING
    orders = list(permutations(range(len(similarities))))
    complete = [order for order in orders if all(shown[region, subject] for region, subject in enumerate(order))]
    if not complete:  # more subjects than regions that show any of them
        return Presence.MERGED
    best = max(complete, key=lambda order: sum(similarities[region, subject] for region, subject in enumerate(order)))
    return Presence.IN_PLACE if best == orders[0] else Presence.SWAPPED


def presence_threshold(same: Float[np.ndarray, " N"], different: Float[np.ndarray, " M"]) -> float:
    """Return the similarity that best tells photos of one subject from photos of two.

    It maximises the mean of the two shares of right answers (balanced accuracy); of equally good thresholds it is the
    middle one.

    Args:
        same: similarities of different photos of the same subject.
        different: similarities of photos of different subjects.
    """
    values = np.unique(np.concatenate([same, different]))
    middles = np.concatenate([values[:1], (values[1:] + values[:-1]) / 2])
    right = 1 - np.searchsorted(np.sort(same), middles) / len(same)
    right = right + np.searchsorted(np.sort(different), middles) / len(different)
    best = middles[right >= right.max() - 1e-12]
    return float(best[len(best) // 2])
