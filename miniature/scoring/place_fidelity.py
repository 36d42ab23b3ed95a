"""Place fidelity: whether a picture's subjects fill the boxes and the outlines that were requested for them.

The small Grounding DINO finds few things that it was not trained on, so SAM takes the detector's place: it segments the
thing in the requested box; the bounds of the mask are compared with the box, and the mask with the subject's region in
the scene. The cases of `cases` have, with one subject and with two, these mean IoUs of boxes: the scenes themselves .97
and .94; moved by 8 of their 64 pixels .64 and .66; the scenes of other cases .41 and .46, because a mask without
evidence tends to fill its box.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from jaxtyping import Bool
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


@dataclass(frozen=True)
class PlaceFidelity:
    """How well the subjects of pictures fill their places: a list for each picture, a value for each subject."""

    box: list[list[float]]
    """IoU of the requested box and of the bounds of what is in it, 0 to 1."""
    outline: list[list[float]]
    """IoU of the subject's region in the requested scene and of what is in its box, 0 to 1."""


def place_fidelity(
    segmenter: Segmenter[SamImage], pictures: Sequence[NDArray[np.uint8]], asked: Sequence[Case]
) -> PlaceFidelity:
    """Segment each subject in its requested box, and compare the mask with its box and its region in the scene."""
    boxes, outlines = [], []
    for picture, case in zip(pictures, asked, strict=True):
        masks = [_segment(segmenter, picture, subject.box) for subject in case.subjects]
        pairs = list(zip(masks, case.subjects, strict=True))
        boxes.append([box_iou(one.box, mask_bounds(mask) if mask.any() else None) for mask, one in pairs])
        outlines.append([_mask_iou(mask, one.place) for mask, one in pairs])
    return PlaceFidelity(boxes, outlines)


def _segment(
    segmenter: Segmenter[SamImage], picture: NDArray[np.uint8], requested: RelativeBox
) -> Bool[np.ndarray, "h w"]:
    enlarged = np.asarray(cv2.resize(picture, (_SAM_PX, _SAM_PX), interpolation=cv2.INTER_CUBIC), np.uint8)
    prompt = np.asarray([requested], np.float32) * _SAM_PX
    ((segmented,),) = segmenter.segment([segmenter.prepare(enlarged)], [prompt])
    return segmented.mask


def _mask_iou(mask: Bool[np.ndarray, "h w"], place: Bool[np.ndarray, "_h _w"]) -> float:
    """Return the IoU of a mask and of a region of another resolution, which is brought to that of the mask."""
    height, width = mask.shape
    region = cv2.resize(place.astype(np.uint8), (width, height), interpolation=cv2.INTER_NEAREST) > 0
    union = int(np.count_nonzero(mask | region))
    return int(np.count_nonzero(mask & region)) / union if union else 0.0
