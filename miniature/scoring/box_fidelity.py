"""Box fidelity: whether a picture's subjects fill the boxes that were requested for them.

The small Grounding DINO finds few things that it was not trained on, so SAM takes the detector's place: it segments the
thing in the requested box, and the bounds of the mask are compared with the box. The cases of `cases` have, with one
subject and with two, these mean IoUs: the scenes themselves .97 and .94; moved by 8 of their 64 pixels .64 and .66; the
scenes of other cases .41 and .46, because a mask without evidence tends to fill its box.
"""

from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from evaluation.scores.boxes import box_iou
from infra.precision import Precision
from labeling.backends.load import load_segmenter
from labeling.backends.sam.predict import SamImage
from labeling.config import SegmentConfig
from labeling.stages.networks import Segmenter
from miniature.scoring.cases import Case
from model.inputs.layout import RelativeBox, mask_bounds

_SAM_PX = 192
"""Side of the pictures for SAM, the one that it was trained with."""


def load_sam(folder: Path) -> Segmenter[SamImage]:
    """Load the small SAM from its folder.

    Raises:
        LabelingError: the folder holds no SAM.
    """
    return load_segmenter(SegmentConfig(checkpoint=str(folder), precision=Precision.FLOAT32))


def box_ious(
    segmenter: Segmenter[SamImage], pictures: Sequence[NDArray[np.uint8]], asked: Sequence[Case]
) -> list[list[float]]:
    """Return for each picture the IoU of each subject's requested box and of the bounds of what is there, 0 to 1."""
    return [
        [_iou(segmenter, picture, subject.box) for subject in case.subjects]
        for picture, case in zip(pictures, asked, strict=True)
    ]


def _iou(segmenter: Segmenter[SamImage], picture: NDArray[np.uint8], requested: RelativeBox) -> float:
    enlarged = np.asarray(cv2.resize(picture, (_SAM_PX, _SAM_PX), interpolation=cv2.INTER_CUBIC), np.uint8)
    prompt = np.asarray([requested], np.float32) * _SAM_PX
    ((segmented,),) = segmenter.segment([segmenter.prepare(enlarged)], [prompt])
    mask = segmented.mask
    return box_iou(requested, mask_bounds(mask) if mask.any() else None)
