"""Masks of the boxes that people drew: `corrections/masks/`, one file for each shard with corrections."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import ClassVar

from labeling.backends.load import load_segmenter
from labeling.config import BoxRules, SegmentConfig
from labeling.correction.replay import correct_image, corrections_by_key
from labeling.execution.network_job import NetworkJob
from labeling.sdd.corrections import CORRECTIONS, NO_CORRECTIONS, Corrections, ReviewedCorrection, digest
from labeling.sdd.schema import Candidate, Detection, Segment
from labeling.sdd.shards import ShardStore
from labeling.stages.networks import Prepared
from labeling.stages.segment import SegmentInput, SegmentStage
from labeling.steps import Step, stamp_of, weights_identity

MASKS = f"{CORRECTIONS}/masks"
"""Folder of the masks in a dataset."""
_NO_FLOOR = BoxRules(
    min_aspect=0.0,
    max_aspect=1000.0,
    min_box_share=0.0,
    max_box_share=1.0,
    max_iou=1.0,
    max_repeats=1_000_000,
    min_score=0.0,
)
"""Rules that every box of a person keeps."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CorrectableImage:
    """Columns that corrections are applied to, and the image to mask."""

    key: bytes
    caption: str
    candidates: tuple[Candidate, ...]
    width_px: int
    height_px: int
    image: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class MaskedImage:
    """Columns of a mask file. They include the state, so refused images are read too."""

    key: bytes
    state: str
    candidates: tuple[Candidate, ...] | None


class CorrectionMaskStage(SegmentStage[Prepared]):
    """Stage that masks the boxes of people, whatever rules they break."""

    name: ClassVar[str] = MASKS


@dataclass
class CorrectionMaskJob(NetworkJob):
    """Job that masks the corrected boxes of a shard. Its file holds only the images that have such boxes."""

    corrections: Corrections = field(default_factory=lambda: NO_CORRECTIONS)
    """Corrections of people by shard."""

    def expected_stamp(self, store: ShardStore, shard: str) -> str | None:
        """Return the stamp that the shard's file will have; None while entities/ has no file."""
        parent = store.stamp(self.step.reads[-1], shard)
        return mask_stamp(self.step, parent.stamp, self.corrections.get(shard, ())) if parent else None

    def rows(self, store: ShardStore, shard: str) -> Iterator[SegmentInput]:
        """Yield the images of the shard with the boxes to mask."""
        by_key = corrections_by_key(self.corrections.get(shard, ()))
        for image in store.read(CorrectableImage, self.step.reads, shard):
            if image.key in by_key:
                corrected = correct_image(image, by_key[image.key])
                if boxes := tuple(map(_detection, corrected.without_mask)):
                    yield SegmentInput(
                        key=image.key,
                        image=image.image,
                        width_px=image.width_px,
                        height_px=image.height_px,
                        detections=boxes,
                    )


def mask_step(config: SegmentConfig, reads: tuple[str, ...]) -> Step:
    """Return the step that masks the boxes of people with the segmenter of `config`, from the layers `reads`."""
    stage = CorrectionMaskStage(config.model_copy(update={"floor": _NO_FLOOR}), load_segmenter)
    identity = f"{config.fingerprint()} {weights_identity('labeling.segment', config)}"
    return Step(stage=stage, reads=reads, identity=identity)


def mask_stamp(step: Step, parent: str, corrections: Sequence[ReviewedCorrection]) -> str:
    """Return the stamp of the masks of these corrections, for an entities/ file stamped `parent`."""
    return stamp_of(MASKS, f"{step.identity} {digest(corrections)}", parent)


def read_segments(store: ShardStore, shard: str) -> dict[bytes, list[Segment | None]]:
    """Read the masks of a shard's corrected boxes by the key of the image; none for an image that failed."""
    if shard not in store.shards(MASKS):
        return {}
    rows = store.read(MaskedImage, (MASKS,), shard)
    return {row.key: [candidate.segment for candidate in row.candidates or ()] for row in rows}


def _detection(candidate: Candidate) -> Detection:
    return Detection(
        label=candidate.label,
        span_start=candidate.span_start,
        span_end=candidate.span_end,
        score=candidate.score,
        box=candidate.box,
    )
