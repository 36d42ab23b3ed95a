"""What the stages had to do, read from the files that they wrote."""

from collections.abc import Sequence
from dataclasses import dataclass

from labeling.config import BoxRules
from labeling.rules import broken_box_rules
from labeling.sdd.schema import Candidate, Detection, Noun
from labeling.sdd.shards import ShardStore
from labeling.steps import Step


@dataclass(frozen=True, slots=True, kw_only=True)
class Labelled:
    """What is read: an image that reached the last stage."""

    key: bytes
    width_px: int
    height_px: int
    nouns: tuple[Noun, ...]
    detections: tuple[Detection, ...]
    candidates: tuple[Candidate, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Workload:
    """Of the images that reached the segmenter."""

    images: int
    images_without_call: int
    """None of whose boxes is worth a mask."""
    nouns: int
    boxes: int
    boxes_without_call: int
    """Boxes that break rules 1 to 5 at the floor."""
    masks: int
    mask_bytes: int


def workload(store: ShardStore, steps: Sequence[Step], shards: Sequence[str], floor: BoxRules) -> Workload:
    """Counts over `shards`, whose stages are all done."""
    layers = (*steps[-1].reads, steps[-1].stage.name)
    images = [image for shard in shards for image in store.read(Labelled, layers, shard)]
    worth = [[not rules for rules in broken_box_rules(i.detections, i.width_px, i.height_px, floor)] for i in images]
    masks = [c.segment.mask for image in images for c in image.candidates if c.segment]
    return Workload(
        images=len(images),
        images_without_call=sum(not any(own) for own in worth),
        nouns=sum(len(image.nouns) for image in images),
        boxes=sum(len(own) for own in worth),
        boxes_without_call=sum(not one for own in worth for one in own),
        masks=len(masks),
        mask_bytes=sum(len(mask.counts) for mask in masks),
    )
