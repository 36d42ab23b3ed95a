"""The stages of Fig. 2 in order, the layers that each reads, and the stamps of their files."""

import hashlib
import logging
from collections.abc import Iterable
from dataclasses import dataclass

from labeling.backends.load import load_captioner, load_detector, load_segmenter, load_tagger
from labeling.config import BoxRules, Device, LabelingConfig, NetworkConfig, Weights, WeightsConfig, WeightsKind
from labeling.sdd.schema import Layer
from labeling.sdd.shards import ShardStore
from labeling.stages.base import AnyStage
from labeling.stages.caption import CaptionStage
from labeling.stages.detect import DetectStage
from labeling.stages.nouns import NounStage
from labeling.stages.segment import SegmentStage
from labeling.weights import check_folder_or_hub_id, checkpoint_file, package_id, weights_id

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """A stage with the layers that it reads and the identity of its weights."""

    stage: AnyStage
    reads: tuple[str, ...]
    """Layers that the stage may read, in order. It gets the images that the last of them kept."""
    identity: str
    """Fingerprint of its settings, and the identity of its weights."""

    @property
    def device(self) -> Device | None:
        """Device of its network; None for a stage without a network."""
        config = self.stage.config
        return config.device if isinstance(config, NetworkConfig) and config.runs_here else None

    def stamp(self, parent: str) -> str:
        """Return the stamp of a file that the stage makes from a file stamped `parent`."""
        return stamp_of(self.stage.name, self.identity, parent)


def stamp_of(layer: str, identity: str, parent: str) -> str:
    """Return 12 hex digits that change with the settings or weights of the layer and of every layer before it."""
    return hashlib.sha256(f"{layer} {identity} {parent}".encode()).hexdigest()[:12]


def steps_of(config: LabelingConfig) -> list[Step]:
    """Return the stages from captions/ to entities/ with the networks of `config`. Hashes local weights.

    Raises:
        BackendWeightsError: weights are missing, as far as a check without loading them shows.
    """
    for name, table in config.weights_tables.items():
        refuse_missing_weights(f"labeling.{name}", table)
    _warn_if_threshold_hides_scores(config)
    identities = {name: weights_identity(f"labeling.{name}", table) for name, table in config.weights_tables.items()}
    return chain_stages(
        [
            (CaptionStage(config.caption, load_captioner), identities["caption"]),
            (NounStage(config.nouns, load_tagger), identities["nouns"]),
            (DetectStage(config.detect, load_detector), identities["detect"]),
            (SegmentStage(config.segment, load_segmenter), identities["segment"]),
        ]
    )


def refuse_missing_weights(table: str, config: WeightsConfig) -> None:
    """Check that the weights of a stage exist, because they are loaded only after all earlier stages have run.

    Args:
        table: dotted name of the settings table, for the message.
        config: settings of the stage.
    """
    for weights in config.weights_in_use():
        setting, value = f"{table}.{weights.field}", getattr(config, weights.field)
        if weights.kind is WeightsKind.PACKAGE:
            package_id(value, setting)
        elif weights.kind is WeightsKind.FOLDER:
            check_folder_or_hub_id(value, setting)
        elif value is not None:
            checkpoint_file(value, setting)


def weights_identity(table: str, config: WeightsConfig) -> str:
    """Return the identity of the weights that a table of settings names, `labeling.segment` for example."""
    return " ".join(_identity_of(table, config, weights) for weights in config.weights_in_use())


def _identity_of(table: str, config: WeightsConfig, weights: Weights) -> str:
    value = getattr(config, weights.field)
    if weights.kind is WeightsKind.PACKAGE:
        return package_id(value, f"{table}.{weights.field}")
    return weights_id(value or "default", getattr(config, weights.revision) if weights.revision else "")


def _warn_if_threshold_hides_scores(config: LabelingConfig) -> None:
    """Warn if rule 5 is looser than the detector's threshold, except at the paper's 0.2, the default."""
    score, threshold = config.rules.min_score, config.detect.box_threshold
    if score < threshold and score != BoxRules().min_score:
        log.warning(
            "labeling.rules.min_score=%g keeps no more boxes than %g would, as the detector writes none below "
            "that. Set labeling.detect.box_threshold=%g too",
            score,
            threshold,
            score,
        )


def chain_stages(stages: Iterable[tuple[AnyStage, str]]) -> list[Step]:
    """Return a step for each stage, which reads images/ and all layers before its own.

    Args:
        stages: each stage with the identity of its weights.
    """
    steps: list[Step] = []
    layers: tuple[str, ...] = (Layer.IMAGES,)
    for stage, weights in stages:
        identity = f"{stage.config.fingerprint()} {weights}"
        steps.append(Step(stage=stage, reads=layers, identity=identity))
        layers = (*layers, stage.name)
    return steps


def expected_stamps(steps: Iterable[Step], store: ShardStore, shard: str) -> dict[str, str]:
    """Return the stamps that the shard's layers must have for these steps; empty until its images exist."""
    images = store.stamp(Layer.IMAGES, shard)
    if images is None:
        return {}
    stamps: dict[str, str] = {Layer.IMAGES: images.stamp}
    parent = images.stamp
    for step in steps:
        parent = stamps[step.stage.name] = step.stamp(parent)
    return stamps
