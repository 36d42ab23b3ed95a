"""Box fidelity: whether a subject is where it was asked for."""

import math

from evaluation.benchmarks.benchmark import RelativeBox


def box_iou(requested: RelativeBox, detected: RelativeBox | None) -> float:
    """Return the intersection over union of two boxes, 0 to 1; 0 if nothing was detected."""
    if detected is None:
        return 0.0
    width = min(requested[2], detected[2]) - max(requested[0], detected[0])
    height = min(requested[3], detected[3]) - max(requested[1], detected[1])
    shared = max(0.0, width) * max(0.0, height)
    union = _area(requested) + _area(detected) - shared
    return shared / union if union else 0.0


def aspect_change(before: RelativeBox, after: RelativeBox) -> float:
    """Return the factor between the aspect ratios of two boxes, as |log2|: 0 for the same, 1 for twice as wide.

    The one trace of a subject's pose that boxes hold; a turn that keeps the outline's aspect ratio gives 0. Sides are
    in units of one length, so boxes of pictures that are not square are scaled first.
    """
    return abs(math.log2(_aspect(after) / _aspect(before)))


def _area(box: RelativeBox) -> float:
    return (box[2] - box[0]) * (box[3] - box[1])


def _aspect(box: RelativeBox) -> float:
    width, height = box[2] - box[0], box[3] - box[1]
    if width <= 0 or height <= 0:
        raise ValueError(f"box {box} has no area")
    return width / height
