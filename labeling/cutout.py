"""Cutting one subject out of one photo, with the detector and the segmenter of the dataset.

    cutter = Cutter(config.detect, config.segment)       # loads each network when it is first needed
    cutout = cutter.cut(read_photo(Path("dog.jpg")), "dog")
    Image.fromarray(cutout.rgba()).save("dog.png")

The subject is where the photo is opaque, where a mask marks it, inside a box, or where the detector finds its label.
The rules of App. B.1 do not apply: a photo of one subject is often filled by it.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from threading import Lock
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from labeling.backends.load import load_detector, load_segmenter
from labeling.config import DetectConfig, SegmentConfig
from labeling.errors import CutoutError, NothingFound
from labeling.photo import DecodedPhoto
from labeling.stages.networks import DetectedBox, Detector, SegmentedBox, Segmenter

if TYPE_CHECKING:
    from labeling.backends.grounding_dino.detect import PreparedImage
    from labeling.backends.sam.predict import SamImage

RelativeBox = tuple[float, float, float, float]
"""Left, top, right, bottom as shares of the image, 0 to 1."""
MAX_ASPECT = 100
"""Largest ratio of the sides of a photo for the networks. At full size they scale the longer side to 1,333 pixels, so
that few or none are left of the shorter."""


class FoundBy(StrEnum):
    """What told where the subject is."""

    ALPHA = "alpha"
    """The photo's own transparency."""
    MASK = "mask"
    """A given mask."""
    BOX = "box"
    """A given box, segmented by SAM; what SAM marks outside it is left out."""
    DETECTOR = "detector"
    """A box that Grounding DINO found, segmented by SAM."""


@dataclass(frozen=True, slots=True)
class FoundBox:
    """A box in which the detector found the label."""

    box: RelativeBox
    score: float
    """Score of the detector, 0 to 1."""


@dataclass(frozen=True, eq=False, slots=True, kw_only=True)
class Cutout:
    """A subject, cut out of its photo."""

    image: NDArray[np.uint8]
    """The whole photo, upright RGB [H, W, 3]."""
    mask: NDArray[np.bool_]
    """Pixels of the subject [H, W], at least one."""
    label: str
    """Name of the subject."""
    box: RelativeBox
    """The box that was given or detected; for a mask or alpha, its bounds."""
    found_by: FoundBy
    predicted_iou: float | None = None
    """SAM's own estimate of the mask's IoU; None if it did not run."""
    candidates: tuple[FoundBox, ...] = ()
    """All boxes that the detector found, best first; empty if it did not run."""
    candidate: int | None = None
    """Number of the box among `candidates`, from 1; None if the detector did not run."""

    @property
    def score(self) -> float | None:
        """Score of the detector for the box, 0 to 1; None if it did not run."""
        return None if self.candidate is None else self.candidates[self.candidate - 1].score

    def rgba(self) -> NDArray[np.uint8]:
        """Return the whole photo [H, W, 4], transparent around the subject. Transparent pixels keep their colours."""
        return np.dstack([self.image, self.mask.astype(np.uint8) * np.uint8(255)])


class Cutter:
    """Cuts subjects out of photos. One object serves any number of threads, whose networks run one after another.

    Args:
        detect: settings of the detector, as of a dataset.
        segment: settings of the segmenter. `floor` is ignored.
    """

    def __init__(self, detect: DetectConfig, segment: SegmentConfig) -> None:
        self.detect = detect
        self.segment = segment
        self._detector: Detector[PreparedImage] | None = None
        self._segmenter: Segmenter[SamImage] | None = None
        self._lock = Lock()
        """Held while networks are loaded and while they run."""

    def cut(
        self,
        photo: DecodedPhoto,
        label: str,
        *,
        mask: NDArray[np.bool_] | None = None,
        box: Sequence[float] | None = None,
        candidate: int | None = None,
    ) -> Cutout:
        """Cut out the subject that `label` names. Networks run only for a box, a candidate, or an opaque photo.

        Args:
            photo: the photo.
            label: name of the subject in one or a few words; the detector looks for it.
            mask: pixels of the subject [H, W]; no network runs.
            box: box around the subject, as left, top, right, bottom in shares of the photo, 0 to 1.
            candidate: number of the box to segment, from 1, among those that the detector finds, best first; by default
                1. A photo's transparency is then ignored.

        Raises:
            CutoutError: the label is blank, the mask is empty or of another size, the box does not lie in the photo,
                more than one of `mask`, `box` and `candidate` is given, or the photo is too narrow for a network.
            NothingFound: the detector finds no box or fewer than `candidate` names, or SAM no pixel in the box.
            BackendWeightsError: weights are missing, or of another network.
            DeviceError: a setting requests a GPU that does not exist.
        """
        label = _parse_label(label)
        if sum(given is not None for given in (mask, box, candidate)) > 1:
            raise CutoutError(f"{photo.name}: give one of mask, box and candidate; each replaces the others")
        if mask is not None:
            return _cut_mask(photo, label, mask, FoundBy.MASK)
        if box is not None:
            return self._cut_box(photo, label, parse_box(box, photo))
        if candidate is None and photo.opaque is not None:
            return _cut_mask(photo, label, photo.opaque, FoundBy.ALPHA)
        return self._cut_candidate(photo, label, 1 if candidate is None else candidate)

    def find(self, photo: DecodedPhoto, label: str) -> tuple[FoundBox, ...]:
        """Return the boxes in which the detector finds `label`, best first; none if it finds nothing.

        Raises:
            CutoutError: the label is blank, or the photo is too narrow for a network.
            BackendWeightsError: weights are missing, or of another network.
            DeviceError: a setting requests a GPU that does not exist.
        """
        label = _parse_label(label)
        _refuse_narrow(photo)
        with self._lock:  # the preparation too, so that one photo at a time takes memory for it
            detector = self._detector = self._detector or load_detector(self.detect)
            (found,) = detector.detect([detector.prepare(photo.pixels)], [[label]])
        return tuple(_relative(box, photo) for box in found)

    def _cut_box(self, photo: DecodedPhoto, label: str, box: RelativeBox) -> Cutout:
        found = self._run_segmenter(photo, box)
        return Cutout(
            image=photo.pixels,
            mask=_clip(found.mask, box, photo),
            label=label,
            box=box,
            found_by=FoundBy.BOX,
            predicted_iou=found.predicted_iou,
        )

    def _cut_candidate(self, photo: DecodedPhoto, label: str, number: int) -> Cutout:
        candidates = self.find(photo, label)
        if not candidates:
            raise NothingFound(
                f"{photo.name}: the detector found no {label!r}, that is no box with a score of "
                f"{self.detect.box_threshold:g} (labeling.detect.box_threshold) or more: give a box around the "
                "subject, or call it by another word"
            )
        if not 1 <= number <= len(candidates):
            raise NothingFound(
                f"{photo.name}: there is no candidate {number}, as the detector found {len(candidates)} for "
                f"{label!r}: give a number from 1 to {len(candidates)}, or a box around the subject"
            )
        box = candidates[number - 1].box
        found = self._run_segmenter(photo, box)
        return Cutout(
            image=photo.pixels,
            mask=found.mask,
            label=label,
            box=box,
            found_by=FoundBy.DETECTOR,
            predicted_iou=found.predicted_iou,
            candidates=candidates,
            candidate=number,
        )

    def _run_segmenter(self, photo: DecodedPhoto, box: RelativeBox) -> SegmentedBox:
        _refuse_narrow(photo)
        height, width = photo.pixels.shape[:2]
        boxes = np.array([[box[0] * width, box[1] * height, box[2] * width, box[3] * height]], np.float32)
        with self._lock:
            segmenter = self._segmenter = self._segmenter or load_segmenter(self.segment)
            ((found,),) = segmenter.segment([segmenter.prepare(photo.pixels)], [boxes])
        _refuse_empty(found.mask, box, photo)
        return found


def parse_box(box: Sequence[float], photo: DecodedPhoto) -> RelativeBox:
    """Return `box` as four shares of the photo.

    Raises:
        CutoutError: `box` is no box inside the photo; the message names the box in shares if it was given in pixels.
    """
    try:
        x0, y0, x1, y1 = map(float, box)
    except (TypeError, ValueError):
        x0 = y0 = x1 = y1 = math.nan
    if 0 <= x0 < x1 <= 1 and 0 <= y0 < y1 <= 1:
        return (x0, y0, x1, y1)
    height, width = photo.pixels.shape[:2]
    example = "such as 0.1,0.3,0.5,0.9"
    if 0 <= x0 < x1 <= width and 0 <= y0 < y1 <= height and x1 > 1 < y1:
        shares = box_text((x0 / width, y0 / height, x1 / width, y1 / height))
        example = f"{shares} if these are pixels of {width}x{height}"
    raise CutoutError(
        f"{photo.name}: the box {box} does not lie in the photo: give left, top, right, bottom as shares of "
        f"it, 0 to 1, {example}"
    )


def _parse_label(label: str) -> str:
    stripped = " ".join(label.split())
    if not stripped:
        raise CutoutError(f"the label {label!r} is blank: name the subject in one or a few words, such as dog")
    return stripped


def _refuse_empty(mask: NDArray[np.bool_], box: RelativeBox, photo: DecodedPhoto) -> None:
    if not mask.any():
        raise NothingFound(f"{photo.name}: SAM marked no pixel in the box {box_text(box)}: give another box")


def _clip(mask: NDArray[np.bool_], box: RelativeBox, photo: DecodedPhoto) -> NDArray[np.bool_]:
    """Return the part of `mask` inside a given box: unlike a detected one, it is as large as its author wants it."""
    height, width = mask.shape
    x0, y0, x1, y1 = box
    inside = np.s_[math.floor(y0 * height) : math.ceil(y1 * height), math.floor(x0 * width) : math.ceil(x1 * width)]
    clipped = np.zeros_like(mask)
    clipped[inside] = mask[inside]
    _refuse_empty(clipped, box, photo)
    return clipped


def _refuse_narrow(photo: DecodedPhoto) -> None:
    height, width = photo.pixels.shape[:2]
    if max(height, width) > MAX_ASPECT * min(height, width):
        raise CutoutError(
            f"{photo.name} is {width}x{height}: one side is more than {MAX_ASPECT} times the other, too narrow for the "
            "networks: crop it, or give a mask"
        )


def _cut_mask(photo: DecodedPhoto, label: str, mask: NDArray[np.bool_], found_by: FoundBy) -> Cutout:
    height, width = photo.pixels.shape[:2]
    if mask.shape != (height, width):
        sizes = "x".join(map(str, mask.shape[::-1]))
        raise CutoutError(f"{photo.name} is {width}x{height}, its mask {sizes}: give a mask of the photo's size")
    if not mask.any():
        marks = "is transparent everywhere" if found_by is FoundBy.ALPHA else "has a mask without a pixel inside"
        raise CutoutError(f"{photo.name} {marks}: give a mask that is white inside the subject, or a box around it")
    return Cutout(image=photo.pixels, mask=mask, label=label, box=_bounds(mask), found_by=found_by)


def _bounds(mask: NDArray[np.bool_]) -> RelativeBox:
    height, width = mask.shape
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    return (
        float(columns[0] / width),
        float(rows[0] / height),
        float((columns[-1] + 1) / width),
        float((rows[-1] + 1) / height),
    )


def _relative(found: DetectedBox, photo: DecodedPhoto) -> FoundBox:
    height, width = photo.pixels.shape[:2]
    x0, y0, x1, y1 = found.box
    return FoundBox((x0 / width, y0 / height, x1 / width, y1 / height), found.score)


def box_text(box: Sequence[float]) -> str:
    """Return a box as the command line takes it: 0.1,0.3,0.5,0.9."""
    return ",".join(f"{side:.4g}" for side in box)
