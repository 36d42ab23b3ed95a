"""The filtering rules of App. B.1, (1) to (6), judged per entity.

Every candidate is judged against all candidates of its image, whatever else these break: the
order of the candidates does not matter, and a tighter setting never keeps more. The name of a
rule is the reason that the ledger counts, so do not rename one lightly.

A file holds 32-bit floats, in which 0.7 is 0.699999988: boxes, scores and limits are all rounded to 32 bits before
they are compared, so what stands exactly at a limit stays on its side when it is written and read again.
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
    def label(self) -> str: ...
    @property
    def score(self) -> float: ...
    @property
    def box(self) -> Box: ...


BOX_RULES = ("aspect_ratio", "box_share", "overlap", "repeats", "low_score")
"""Rules 1 to 5, which need no mask, in the paper's order."""
MASK_RULES = ("no_mask", "thin_mask")
"""What a mask can break: there is none, or rule 6."""
RULES = BOX_RULES + MASK_RULES


@dataclass(frozen=True, slots=True)
class _Stored:
    """What a file will say of a `Scored`."""

    label: str
    score: float
    box: Box


def broken_box_rules(found: Sequence[Scored], width_px: int, height_px: int, rules: BoxRules) -> list[tuple[str, ...]]:
    """For each of `found`, all of an image of this size, the names of rules 1 to 5 that it breaks."""
    stored = [_Stored(f.label, _float32(f.score), _rounded(f.box)) for f in found]
    repeats = Counter(f.label for f in stored)
    return [
        tuple(
            name
            for name, broken in (
                ("aspect_ratio", aspect_ratio(f.box, rules)),
                ("box_share", box_share(f.box, width_px * height_px, rules)),
                ("overlap", overlap(i, stored, rules)),
                ("repeats", repeats[f.label] > rules.max_repeats),
                ("low_score", not f.score >= _float32(rules.min_score)),
            )
            if broken
        )
        for i, f in enumerate(stored)
    ]


def broken_rules(
    candidates: Sequence[Candidate], width_px: int, height_px: int, rules: RulesConfig
) -> list[tuple[str, ...]]:
    """For each of `candidates`, all of an image of this size, the names of the rules that it breaks."""
    by_box = broken_box_rules(candidates, width_px, height_px, rules)
    return [names + mask_rules(c, names, rules) for names, c in zip(by_box, candidates, strict=True)]


def aspect_ratio(box: Box, rules: BoxRules) -> bool:
    """(1) "We only keep the bounding boxes with an aspect ratio between 0.3 and 3"."""
    return not _float32(rules.min_aspect) <= _float32(box.aspect) <= _float32(rules.max_aspect)


def box_share(box: Box, image_area_px: int, rules: BoxRules) -> bool:
    """(2) the box covers between 0.05 and 0.7 of the image. Choice: judged per entity."""
    share = _float32(box.area_px / image_area_px)
    return not _float32(rules.min_box_share) <= share <= _float32(rules.max_box_share)


def overlap(index: int, found: Sequence[Scored], rules: BoxRules) -> bool:
    """(3) "entities with IOU exceeding 0.8". Choice: the one that ranks lower goes."""
    mine, limit = found[index], _float32(rules.max_iou)
    return any(_rank(f, i) > _rank(mine, index) and _float32(mine.box.iou(f.box)) > limit for i, f in enumerate(found))


def mask_rules(candidate: Candidate, by_box: tuple[str, ...], rules: RulesConfig) -> tuple[str, ...]:
    """(6) "the segmentation mask area is less than 60% of the corresponding detection box area".

    Choice: the ratio of the two areas, as written, so mask pixels outside the box count too. A box that broke rules 1
    to 5 got no mask for that reason, so its missing mask breaks no rule.
    """
    if candidate.segment is None:
        return () if by_box else ("no_mask",)
    return () if mask_fill(candidate.box, candidate.segment) >= _float32(rules.min_mask_fill) else ("thin_mask",)


def mask_fill(box: Box, segment: Segment) -> float:
    """Area of the mask over the area of its box, in 32 bits; 0 for a box without area."""
    box_area_px = _rounded(box).area_px
    return _float32(segment.area_px / box_area_px if box_area_px > 0 else 0.0)


def _rank(found: Scored, index: int) -> tuple[float, str, float, float, float, float, int]:
    """Higher score first; equal scores by what they are, so that the order given decides only between equals."""
    box = found.box
    return (found.score, found.label, box.x0, box.y0, box.x1, box.y1, -index)


def _rounded(box: Box) -> Box:
    return Box(x0=_float32(box.x0), y0=_float32(box.y0), x1=_float32(box.x1), y1=_float32(box.y1))


def _float32(value: float) -> float:
    return c_float(value).value
