"""Proportions of the classes of Table 6, estimated from a stratified sample.

A proportion is the mean over strata, weighted with their sizes: sum(N_h p_h) / N. Its interval is Wilson's for a sample
of the *effective* size p (1 - p) / Var(p), at which a simple random sample would have the variance of the stratified
one (Cochran, Sampling Techniques, 1977, Sec. 5.10). One large stratum gives Wilson's interval itself. Where no stratum
shows spread, the effective size is that of strata with equal variances, 1 / sum((N_h / N)^2 (1 - n_h / N_h) / n_h).
"""

from collections import defaultdict
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass

from infra.intervals import wilson_interval
from labeling.quality.marks import AuditedImage, Mark
from labeling.sdd.schema import State

FILTERED = "filtered_by_rules"
"""Row of Table 6 for images that the rules dropped."""


@dataclass(frozen=True, slots=True)
class Stratum:
    """Marks of a stratum for one question."""

    images: int
    """Images of the dataset in the stratum."""
    marked: int
    """Images that have been marked."""
    hits: int
    """Marked images to which the answer is yes."""


@dataclass(frozen=True, slots=True)
class Proportion:
    """An estimated proportion with its 95 % interval."""

    name: str
    """A `Mark`, or `FILTERED`."""
    of: str
    """Images that it is a proportion of: `judged`, all that reached the rules, or `dropped`."""
    value: float
    low: float
    high: float
    marked: int
    """Marked images on which it rests; 0 for one that was counted, not estimated."""


def estimate(strata: Iterable[Stratum]) -> tuple[float, float, float]:
    """Return a proportion with its interval, which is a point if all images of the strata are marked.

    Strata without marks are left out; the interval is 0 to 1 without any marks.
    """
    marked = [stratum for stratum in strata if stratum.marked]
    total = sum(stratum.images for stratum in marked)
    if not total:
        return 0.0, 0.0, 1.0
    value = sum(s.images / total * s.hits / s.marked for s in marked)
    variance = sum((s.images / total) ** 2 * _variance(s) for s in marked)
    spread = value * (1 - value)
    if not (spread and variance):
        spread, variance = 1.0, sum((s.images / total) ** 2 * (1 - s.marked / s.images) / s.marked for s in marked)
    if not variance:
        return value, value, value
    effective = spread / variance
    low, high = wilson_interval(value * effective, effective)
    return value, low, high


def table_6(images: Sequence[AuditedImage]) -> list[Proportion]:
    """Return the rows of Table 6, and the proportion of wrongly dropped images among the dropped ones.

    Args:
        images: sample of an audit.
    """
    kept, dropped = (_stratum_sizes(images, state) for state in (State.KEPT, State.DROPPED))
    kept_share = kept / (kept + dropped) if kept + dropped else 0.0
    rows = [
        _scaled(_proportion(images, State.KEPT, mark, "judged"), kept_share)
        for mark in (Mark.HIGH_QUALITY, Mark.LOW_RECALL, Mark.OTHER)
    ]
    filtered = 1 - kept_share if kept + dropped else 0.0
    return [
        *rows,
        Proportion(FILTERED, "judged", filtered, filtered, filtered, 0),
        _proportion(images, State.DROPPED, Mark.WRONGLY_DROPPED, "dropped"),
    ]


def _variance(stratum: Stratum) -> float:
    """Return the estimated variance of a stratum's proportion, with the correction for a finite stratum."""
    share, marked = stratum.hits / stratum.marked, stratum.marked
    unmarked = 1 - marked / stratum.images
    if marked < 2:
        return unmarked * 0.25
    return unmarked * share * (1 - share) / (marked - 1)


def _proportion(images: Sequence[AuditedImage], state: State, mark: Mark, of: str) -> Proportion:
    by_stratum: defaultdict[str, list[AuditedImage]] = defaultdict(list)
    for image in images:
        if image.state == state:
            by_stratum[image.stratum].append(image)
    strata = [_stratum(each, mark) for each in by_stratum.values()]
    return Proportion(mark.value, of, *estimate(strata), sum(stratum.marked for stratum in strata))


def _stratum(images: Collection[AuditedImage], mark: Mark) -> Stratum:
    marks = [image.mark for image in images if image.mark is not None]
    return Stratum(next(iter(images)).stratum_images, len(marks), marks.count(mark))


def _stratum_sizes(images: Iterable[AuditedImage], state: State) -> int:
    """Return the images of the dataset in the strata of a state."""
    return sum({image.stratum: image.stratum_images for image in images if image.state == state}.values())


def _scaled(proportion: Proportion, share: float) -> Proportion:
    """Return a proportion of kept images as one of all judged images; the share of kept ones is counted exactly."""
    value, low, high = (share * each for each in (proportion.value, proportion.low, proportion.high))
    return Proportion(proportion.name, proportion.of, value, low, high, proportion.marked)
