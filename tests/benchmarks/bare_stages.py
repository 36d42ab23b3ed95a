"""Each stage's network alone: as the pipeline runs it, and as the gates compare it."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any, TypeAlias

from infra.precision import Precision
from labeling.config import CaptionConfig, DetectConfig, LabelingConfig, NounConfig, SegmentConfig
from labeling.sdd.schema import Detection, Detections
from labeling.sdd.shards import ShardStore
from labeling.stages.caption import CaptionStage
from labeling.stages.detect import DetectStage
from labeling.stages.nouns import NounStage
from labeling.stages.segment import SegmentStage
from labeling.steps import Step
from tests.benchmarks.device_rates import (
    LibraryCaptioner,
    Rate,
    RecordedCaptioner,
    RecordedDetector,
    RecordedSegmenter,
    RecordedTagger,
    rate,
)

SINGLES = 16
"""Images that are done one at a time."""
SAME_IOU = 0.99
Batches: TypeAlias = Sequence[Sequence[Any]]
"""Rows of a stage."""


@dataclass(frozen=True, slots=True)
class Captions:
    pipeline: Rate
    library_single: Rate
    """transformers in float16, one image at a time."""
    library_batched: Rate
    """transformers in float16, the pipeline's batches."""
    tokens: int
    """Of the longest caption."""


@dataclass(frozen=True, slots=True)
class Boxes:
    pipeline: Rate
    even: Rate
    """A full batch of images of one size."""
    single: Rate
    """One image at a time, float32."""
    same: float
    """Share of the boxes of images alone that their batches give too."""
    padding: float
    """Share of padding among the tokens of the prompts."""


@dataclass(frozen=True, slots=True)
class Masks:
    pipeline: Rate
    single: Rate
    """One image at a time, float32."""
    compiled: Rate | None
    """The pipeline's batches, the image encoder by torch.compile."""
    padding: float
    """Share of padding among the pixels of the network's square input."""


@dataclass(frozen=True, slots=True)
class Bare:
    captions: Captions
    nouns: Rate
    boxes: Boxes
    masks: Masks

    @property
    def stages(self) -> dict[str, Rate]:
        """As the pipeline runs them, by stage."""
        return {
            "captions": self.captions.pipeline,
            "nouns": self.nouns,
            "detections": self.boxes.pipeline,
            "entities": self.masks.pipeline,
        }


def measure(
    config: LabelingConfig, steps: Sequence[Step], shards: Sequence[str], sample: int, seconds: float, compiled: bool
) -> Bare:
    """All networks, one after the other, each over the first batches of its stage, `sample` rows or some more."""
    store = ShardStore(config.root)
    captions, nouns, boxes, masks = (_batches(store, config, step, shards, sample) for step in steps)
    return Bare(
        captions=_captions(config.caption, captions, seconds),
        nouns=_nouns(config.nouns, nouns, seconds),
        boxes=_boxes(config.detect, boxes, config.workers.detections.batch_size, seconds),
        masks=_masks(config.segment, masks, seconds, compiled),
    )


def _batches(
    store: ShardStore, config: LabelingConfig, step: Step, shards: Sequence[str], sample: int
) -> list[list[Any]]:
    """As the pipeline makes them: none has rows of two shards."""
    size = getattr(config.workers, step.stage.name).batch_size
    found: list[list[Any]] = []
    for shard in shards:
        rows: list[Any] = list(store.read(step.stage.reads, step.reads, shard))
        found += [rows[first : first + size] for first in range(0, len(rows), size)]
        if sum(map(len, found)) >= sample:
            break
    if not found:
        raise SystemExit(f"no image reached {step.stage.name}: the stages before it dropped all; give more --images")
    return found


def _loaded(network: Any) -> Callable[[Any], Any]:
    """The loader of a network that is loaded already."""
    return lambda _: network


def _singles(batches: Batches) -> list[list[Any]]:
    return [[row] for row in chain.from_iterable(batches)][:SINGLES]


def _captions(config: CaptionConfig, batches: Batches, seconds: float) -> Captions:
    ours = RecordedCaptioner(config)
    pipeline, _ = rate(CaptionStage(config, _loaded(ours)), ours, batches, seconds)
    del ours  # the next network may need its memory
    single = LibraryCaptioner(config)
    library_single, _ = rate(CaptionStage(config, _loaded(single)), single, _singles(batches), seconds)
    tokens = single.tokens
    del single
    batched = LibraryCaptioner(config)
    library_batched, _ = rate(CaptionStage(config, _loaded(batched)), batched, batches, seconds)
    return Captions(pipeline, library_single, library_batched, tokens)


def _nouns(config: NounConfig, batches: Batches, seconds: float) -> Rate:
    tagger = RecordedTagger(config)
    return rate(NounStage(config, _loaded(tagger)), tagger, batches, seconds)[0]


def _boxes(config: DetectConfig, batches: Batches, size: int, seconds: float) -> Boxes:
    batched = RecordedDetector(config)
    pipeline, together = rate(DetectStage(config, _loaded(batched)), batched, batches, seconds)
    padding = batched.recording.padding("prompt tokens")
    del batched
    full = RecordedDetector(config)
    even, _ = rate(DetectStage(config, _loaded(full)), full, [[batches[0][0]] * size], seconds)
    del full
    alone = RecordedDetector(config)
    _, apart = rate(DetectStage(config, _loaded(alone)), alone, _singles(batches), seconds=0)
    del alone
    config = config.model_copy(update={"precision": Precision.FLOAT32})
    exact = RecordedDetector(config)
    single, _ = rate(DetectStage(config, _loaded(exact)), exact, _singles(batches), seconds)
    return Boxes(pipeline, even, single, same_boxes(apart, together), padding)


def _masks(config: SegmentConfig, batches: Batches, seconds: float, compiled: bool) -> Masks:
    ours = RecordedSegmenter(config)
    pipeline, _ = rate(SegmentStage(config, _loaded(ours)), ours, batches, seconds)
    padding = ours.recording.padding("pixels")
    del ours
    faster = None
    if compiled:
        graph = RecordedSegmenter(config, compiled=True)
        faster, _ = rate(SegmentStage(config, _loaded(graph)), graph, batches, seconds)
        del graph
    config = config.model_copy(update={"precision": Precision.FLOAT32})
    exact = RecordedSegmenter(config)
    single, _ = rate(SegmentStage(config, _loaded(exact)), exact, _singles(batches), seconds)
    return Masks(pipeline, single, faster, padding)


def same_boxes(alone: Sequence[Any], batched: Sequence[Any]) -> float:
    """Share of the boxes in `alone` that the same image has in `batched`: same label, IoU of at least 0.99.

    Args:
        alone: outcomes of the stage, image by image; those of `batched` may be more.
    """
    pairs = [(box, _boxes_of(other)) for one, other in zip(alone, batched, strict=False) for box in _boxes_of(one)]
    if not pairs:
        return 1.0
    same = (any(b.label == a.label and a.box.iou(b.box) >= SAME_IOU for b in others) for a, others in pairs)
    return sum(same) / len(pairs)


def _boxes_of(outcome: Any) -> tuple[Detection, ...]:
    return outcome.detections if isinstance(outcome, Detections) else ()
