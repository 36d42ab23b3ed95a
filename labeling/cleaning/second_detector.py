"""A second detector, which is compared with the candidates of the first. Off by default."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import ClassVar, Generic

from labeling.backends.load import load_detector
from labeling.cleaning.label_errors import confirm, overlooked
from labeling.config import ConfirmConfig, LabelingConfig
from labeling.sdd.pixels import decode
from labeling.sdd.schema import CONFIRMATIONS, Candidate, Confirmations, Detection, Noun
from labeling.stages.detect import detection_of
from labeling.stages.networks import Detector, Prepared, Resizing
from labeling.steps import Step, refuse_missing_weights, weights_identity


@dataclass(frozen=True, slots=True, kw_only=True)
class ConfirmInput:
    """Columns that the stage reads."""

    key: bytes
    image: bytes
    width_px: int
    height_px: int
    nouns: tuple[Noun, ...]
    candidates: tuple[Candidate, ...]


@dataclass(frozen=True, slots=True)
class ConfirmQuery(Generic[Prepared]):
    """A prepared image with its nouns and candidates."""

    key: bytes
    nouns: tuple[Noun, ...]
    candidates: tuple[Candidate, ...]
    image: Prepared | None
    """None if no candidate has a mask."""


class ConfirmStage(Generic[Prepared]):
    """Stage that detects the nouns of images with a mask once more, and compares the boxes with the candidates.

    Only candidates with a mask can become entities, so images without one are not decoded.
    """

    name: ClassVar[str] = CONFIRMATIONS
    reads: ClassVar[type] = ConfirmInput
    writes: ClassVar[type] = Confirmations

    def __init__(self, config: ConfirmConfig, load: Callable[[ConfirmConfig], Detector[Prepared]]) -> None:
        self.config = config
        self.detector: Detector[Prepared] | None = None
        self._load = load

    def setup(self) -> None:
        """Load the detector."""
        if self.detector is None:
            self.detector = self._load(self.config)

    @property
    def batch_key(self) -> Resizing | None:
        """Size of a row's image after resizing; None if all have one size."""
        assert self.detector is not None, "setup() was not called"
        return self.detector.resizing

    def prepare(self, row: ConfirmInput) -> ConfirmQuery[Prepared]:
        """Decode and prepare an image, if one of its candidates has a mask."""
        assert self.detector is not None, "setup() was not called"
        masked = any(candidate.segment for candidate in row.candidates)
        image = self.detector.prepare(decode(row.image)) if masked else None
        return ConfirmQuery(key=row.key, nouns=row.nouns, candidates=row.candidates, image=image)

    def process(self, batch: Sequence[ConfirmQuery[Prepared]]) -> list[Confirmations]:
        """Compare each image's candidates with what the detector finds."""
        assert self.detector is not None, "setup() was not called"
        images = [row.image for row in batch if row.image is not None]
        rows = [row for row in batch if row.image is not None]
        labels = [[noun.label for noun in row.nouns] for row in rows]
        detected = self.detector.detect(images, labels) if rows else []
        found = {
            row.key: [detection_of(row.nouns[box.label_index], box) for box in boxes]
            for row, boxes in zip(rows, detected, strict=True)
        }
        return [_confirmations(row, found.get(row.key, [])) for row in batch]


def _confirmations(row: ConfirmQuery[Prepared], found: Sequence[Detection]) -> Confirmations:
    return Confirmations(
        key=row.key,
        confirmations=tuple(confirm(candidate, found) for candidate in row.candidates),
        overlooked=overlooked(row.candidates, found),
    )


def confirm_step(config: LabelingConfig, steps: Sequence[Step]) -> Step | None:
    """Return the step of the second detector after the last of `steps`; None if it is off. Hashes local weights.

    Raises:
        BackendWeightsError: weights are missing, as far as a check without loading them shows.
    """
    if not config.confirm.enabled:
        return None
    refuse_missing_weights(config.confirm.table, config.confirm)
    identity = f"{config.confirm.fingerprint()} {weights_identity(config.confirm.table, config.confirm)}"
    reads = (*steps[-1].reads, steps[-1].stage.name)
    return Step(stage=ConfirmStage(config.confirm, load_detector), reads=reads, identity=identity)
