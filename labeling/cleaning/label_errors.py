"""Label-error scores of boxes: the candidates of an image against the boxes of a second detector.

The three kinds of errors are those of ObjectLab (Tkachenko, Thyagarajan and Mueller, 2023, arXiv:2309.00832): a box in
the wrong place (`confirmed_iou`), a swapped label (`label_quality`) and an overlooked object (`OverlookedBox`).

Choices:
    Boxes are compared by IoU alone, where ObjectLab adds the distance of their centres. ObjectLab counts a box of
    another label from a probability of .95 on; open-vocabulary detectors score lower, so the score is a weight here.
"""

from collections.abc import Sequence

from labeling.cleaning.rules import mask_quality
from labeling.sdd.schema import Candidate, Confirmation, Detection, OverlookedBox

OVERLOOKED_IOU = 0.5
"""Largest IoU of an overlooked box with the candidates of its label."""
_NOT_COMPARED = Confirmation(confirmed_iou=None, confirmed_score=None, label_quality=None, mask_quality=None)


def confirm(candidate: Candidate, found: Sequence[Detection]) -> Confirmation:
    """Compare a candidate with what the second detector found on its image."""
    if candidate.segment is None:
        return _NOT_COMPARED
    same = [(candidate.box.iou(each.box), each.score) for each in found if each.label == candidate.label]
    iou, score = max(same, default=(0.0, 0.0))
    rivals = (candidate.box.iou(each.box) * each.score for each in found if each.label != candidate.label)
    return Confirmation(
        confirmed_iou=iou,
        confirmed_score=score if iou > 0 else None,
        label_quality=1 - max(rivals, default=0.0),
        mask_quality=mask_quality(candidate.box, candidate.segment),
    )


def overlooked(candidates: Sequence[Candidate], found: Sequence[Detection]) -> tuple[OverlookedBox, ...]:
    """Return the boxes of the second detector that no candidate of their label overlaps by half, best first."""
    boxes = [
        OverlookedBox(label=each.label, score=each.score, box=each.box)
        for each in found
        if all(own.box.iou(each.box) <= OVERLOOKED_IOU for own in candidates if own.label == each.label)
    ]
    return tuple(sorted(boxes, key=lambda box: -box.score))
