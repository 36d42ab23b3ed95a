"""Choice of a detector's boxes by the thresholds of their labels and by suppression, for all backends."""

from collections.abc import Sequence

import torch
from torch import Tensor
from torchvision.ops import nms

from labeling.config import DetectConfig
from labeling.stages.networks import DetectedBox


def keep_boxes(
    scores: Tensor, labels: Tensor, boxes: Tensor, nouns: Sequence[str], config: DetectConfig
) -> list[DetectedBox]:
    """Return the boxes of one image that pass the threshold of their label and suppression, best first.

    Suppression ignores labels: of two overlapping boxes the one with the higher score stays.

    Args:
        scores: scores [n], 0 to 1.
        labels: indices [n] among `nouns`.
        boxes: boxes [n, 4] as x0, y0, x1, y1 in pixels; rows with values that are not finite, and boxes without area
            are ignored.
        nouns: labels of the image.
        config: thresholds and suppression.
    """
    thresholds = scores.new_tensor([config.label_thresholds.get(noun, config.box_threshold) for noun in nouns])
    finite = scores.isfinite() & boxes.isfinite().all(dim=1)
    good = finite & (boxes[:, 2] > boxes[:, 0]) & (boxes[:, 3] > boxes[:, 1])
    order = torch.nonzero(good & (scores >= thresholds[labels]))[:, 0]
    order = order[scores[order].argsort(descending=True, stable=True)]
    order = order[nms(boxes[order], scores[order], config.nms_iou)]
    rows = zip(labels[order].tolist(), scores[order].tolist(), boxes[order].tolist(), strict=True)
    return [DetectedBox(label, score, (x0, y0, x1, y1)) for label, score, (x0, y0, x1, y1) in rows]
