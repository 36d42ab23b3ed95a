"""The filtering rules of App. B.1, (1) to (6), judged per entity.

A rule is a function that returns whether a candidate breaks it. `BOX_RULES` and `MASK_RULES` list these functions in
the paper's order. The name of the function is the name of the rule in the ledger, so a new name changes the format.

Each candidate is compared with all candidates of its image, including those that break other rules. So the order of
the candidates does not matter, and a stricter setting never keeps more of them.

A file holds 32-bit floats, in which 0.7 is 0.699999988: boxes, scores and limits are all rounded to 32 bits before
they are compared, so writing and reading a file never moves a value across a limit.
"""

from collections import Counter
from collections.abc import Sequence
from ctypes import c_float
from dataclasses import dataclass
from typing import Protocol

from labeling.config import BoxRules, RulesConfig
from labeling.sdd.schema import Box, Candidate, Segment


class Scored(Protocol):
    """A labelled box with a score: a detection or a candidate."""

    @property
    def label(self) -> str:
        """Label of the box."""

    @property
    def score(self) -> float:
        """Confidence of the detector, 0 to 1."""

    @property
    def box(self) -> Box:
        """Box in pixels of the upright image."""


@dataclass(frozen=True, slots=True)
class StoredBox:
    """A `Scored` as a file stores it, in 32 bits."""

    label: str
    score: float
    box: Box


@dataclass(frozen=True, slots=True)
class ImageBoxes:
    """All labelled boxes of one image."""

    boxes: Sequence[StoredBox]
    repeats: Counter[str]
    """Number of boxes of each label."""
    area_px: int
    """Area of the image, in pixels."""


def aspect_ratio(index: int, image: ImageBoxes, rules: BoxRules) -> bool:
    """Return whether a box breaks (1): its aspect ratio is not "between 0.3 and 3"."""
    aspect = _float32(image.boxes[index].box.aspect)
    return not _float32(rules.min_aspect) <= aspect <= _float32(rules.max_aspect)


def box_share(index: int, image: ImageBoxes, rules: BoxRules) -> bool:
    """Return whether a box breaks (2): it covers less than 0.05 or more than 0.7 of the image.

    Choice: each entity is judged by itself.
    """
    share = _float32(image.boxes[index].box.area_px / image.area_px)
    return not _float32(rules.min_box_share) <= share <= _float32(rules.max_box_share)


def overlap(index: int, image: ImageBoxes, rules: BoxRules) -> bool:
    """Return whether a box breaks (3): its IoU with a box of higher rank exceeds 0.8.

    Choice: the paper names "entities with IOU exceeding 0.8"; of two, only the lower-ranked one breaks the rule.
    """
    box, rank, limit = image.boxes[index].box, _rank(image.boxes[index], index), _float32(rules.max_iou)
    return any(_rank(o, i) > rank and _float32(box.iou(o.box)) > limit for i, o in enumerate(image.boxes))


def repeats(index: int, image: ImageBoxes, rules: BoxRules) -> bool:
    """Return whether a box breaks (4): its label has more than 5 boxes in the image."""
    return image.repeats[image.boxes[index].label] > rules.max_repeats


def low_score(index: int, image: ImageBoxes, rules: BoxRules) -> bool:
    """Return whether a box breaks (5): its detection score is below 0.2."""
    return not image.boxes[index].score >= _float32(rules.min_score)


def no_mask(candidate: Candidate, by_box: tuple[str, ...], rules: RulesConfig) -> bool:
    """Return whether the segmenter returned no mask for a box that it was given.

    A box that breaks rules 1 to 5 is not given to the segmenter, so a missing mask does not count.
    """
    return candidate.segment is None and not by_box


def thin_mask(candidate: Candidate, by_box: tuple[str, ...], rules: RulesConfig) -> bool:
    """Return whether (6) "the segmentation mask area is less than 60% of the corresponding detection box area" holds.

    Choice: the ratio of the two areas, as written, so mask pixels outside the box count too.
    """
    segment = candidate.segment
    return segment is not None and not mask_fill(candidate.box, segment) >= _float32(rules.min_mask_fill)


BOX_RULES = (aspect_ratio, box_share, overlap, repeats, low_score)
"""Rules 1 to 5, which need no mask. Each takes the index of a box, all boxes of its image, and the settings."""
MASK_RULES = (no_mask, thin_mask)
"""Rules about the mask: its absence, and rule 6. Each takes a candidate, the box rules that it breaks, and the
settings."""
RULE_NAMES = tuple(rule.__name__ for rule in (*BOX_RULES, *MASK_RULES))
"""Names of all rules in order, as written to the ledger."""


def broken_box_rules(boxes: Sequence[Scored], width_px: int, height_px: int, rules: BoxRules) -> list[tuple[str, ...]]:
    """Return for each box the names of rules 1 to 5 that it breaks.

    Args:
        boxes: all boxes of one image.
        width_px: width of the image.
        height_px: height of the image.
        rules: settings of the rules.
    """
    stored = [StoredBox(b.label, _float32(b.score), _box32(b.box)) for b in boxes]
    image = ImageBoxes(stored, Counter(b.label for b in stored), width_px * height_px)
    return [tuple(rule.__name__ for rule in BOX_RULES if rule(i, image, rules)) for i in range(len(stored))]


def broken_rules(
    candidates: Sequence[Candidate], width_px: int, height_px: int, rules: RulesConfig
) -> list[tuple[str, ...]]:
    """Return for each candidate the names of the rules that it breaks. The arguments are as for `broken_box_rules`."""
    broken = zip(candidates, broken_box_rules(candidates, width_px, height_px, rules), strict=True)
    return [(*by_box, *(rule.__name__ for rule in MASK_RULES if rule(c, by_box, rules))) for c, by_box in broken]


def mask_fill(box: Box, segment: Segment) -> float:
    """Return the area of the mask over the area of its box, in 32 bits; 0 for a box without area."""
    box_area_px = _box32(box).area_px
    return _float32(segment.area_px / box_area_px if box_area_px > 0 else 0.0)


def _rank(scored: StoredBox, index: int) -> tuple[float, str, float, float, float, float, int]:
    """Rank by score, then by content; the index decides only between equal boxes."""
    box = scored.box
    return (scored.score, scored.label, box.x0, box.y0, box.x1, box.y1, -index)


def _box32(box: Box) -> Box:
    return Box(x0=_float32(box.x0), y0=_float32(box.y0), x1=_float32(box.x1), y1=_float32(box.y1))


def _float32(value: float) -> float:
    return c_float(value).value
