"""The chain of Fig. 2: which stage reads which layers, and what stamp its files get."""

import hashlib
import logging
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from labeling.backends.load import load_captioner, load_detector, load_segmenter, load_tagger
from labeling.config import BoxRules, DetectorBackend, Device, LabelingConfig, NetworkConfig, SegmenterBackend
from labeling.sdd.schema import Layer
from labeling.sdd.shards import ShardStore
from labeling.stages.base import Stage
from labeling.stages.caption import CaptionStage
from labeling.stages.detect import DetectStage
from labeling.stages.nouns import NounStage
from labeling.stages.segment import SegmentStage
from labeling.weights import checkpoint_file, package_id, refuse_mistyped, weights_id

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """A stage at its place in the build."""

    stage: Stage[Any, Any]
    reads: tuple[str, ...]
    """The layers it may read, first to last; it gets the images that the last of them kept."""
    identity: str
    """Its settings and weights."""

    @property
    def device(self) -> Device | None:
        """Where its network may run; None where it has no network."""
        config = self.stage.config
        return config.device if isinstance(config, NetworkConfig) else None

    def stamp(self, parent: str) -> str:
        """The stamp of its file, made from a file with the stamp `parent`."""
        return stamp_of(self.stage.name, self.identity, parent)


def stamp_of(layer: str, identity: str, parent: str) -> str:
    """12 hex digits that change when the layer's settings or weights, or those of anything before it, do."""
    return hashlib.sha256(f"{layer} {identity} {parent}".encode()).hexdigest()[:12]


def steps_of(config: LabelingConfig) -> list[Step]:
    """The stages from captions/ to entities/ with the networks of `config`; hashes local weights.

    Raises:
        CheckpointError: weights are not where `config` says, as far as can be said before they are loaded.
    """
    _refuse_missing(config)
    _warn_of_threshold(config)
    caption, detect, segment = config.caption, config.detect, config.segment
    detector = weights_id(detect.checkpoint, detect.revision)
    if detect.backend is DetectorBackend.GROUNDINGDINO:
        detector += f" {weights_id(detect.text_encoder)} {weights_id(detect.package_config or 'default')}"
    return chain(
        [
            (CaptionStage(caption, load_captioner), weights_id(caption.checkpoint, caption.revision)),
            (NounStage(config.nouns, load_tagger), package_id(config.nouns.pipeline, "labeling.nouns.pipeline")),
            (DetectStage(detect, load_detector), detector),
            (SegmentStage(segment, load_segmenter), weights_id(segment.checkpoint, segment.revision)),
        ]
    )


def _refuse_missing(config: LabelingConfig) -> None:
    """A stage would say so too, but only after those before it have run for days."""
    detect, segment = config.detect, config.segment
    refuse_mistyped(config.caption.checkpoint, "labeling.caption.checkpoint")
    if detect.backend is DetectorBackend.GROUNDINGDINO:
        checkpoint_file(detect.checkpoint, "labeling.detect.checkpoint")
        refuse_mistyped(detect.text_encoder, "labeling.detect.text_encoder")
        if detect.package_config is not None:
            checkpoint_file(detect.package_config, "labeling.detect.package_config")
    else:
        refuse_mistyped(detect.checkpoint, "labeling.detect.checkpoint")
    if segment.backend is SegmenterBackend.SEGMENT_ANYTHING:
        checkpoint_file(segment.checkpoint, "labeling.segment.checkpoint")
    else:
        refuse_mistyped(segment.checkpoint, "labeling.segment.checkpoint")


def _warn_of_threshold(config: LabelingConfig) -> None:
    """Rule 5 cannot keep a box that the detector did not write; only the defaults, the paper's 0.2, may say so."""
    score, threshold = config.rules.min_score, config.detect.box_threshold
    if score < threshold and score != BoxRules().min_score:
        log.warning(
            "labeling.rules.min_score=%g keeps no more boxes than %g would, as the detector writes none below "
            "that: set labeling.detect.box_threshold=%g too",
            score,
            threshold,
            score,
        )


def chain(stages: Iterable[tuple[Stage[Any, Any], str]]) -> list[Step]:
    """The stages, each with the identity of its weights, in order: each reads images/ and all layers before it."""
    steps: list[Step] = []
    layers: tuple[str, ...] = (Layer.IMAGES,)
    for stage, weights in stages:
        identity = f"{stage.config.fingerprint()} {weights}"
        steps.append(Step(stage=stage, reads=layers, identity=identity))
        layers = (*layers, stage.name)
    return steps


def expected_stamps(steps: Iterable[Step], store: ShardStore, shard: str) -> dict[str, str]:
    """The stamps that the shard's layers must have for these steps; empty before its images are there."""
    images = store.stamp(Layer.IMAGES, shard)
    if images is None:
        return {}
    stamps: dict[str, str] = {Layer.IMAGES: images.stamp}
    parent = images.stamp
    for step in steps:
        parent = stamps[step.stage.name] = step.stamp(parent)
    return stamps
