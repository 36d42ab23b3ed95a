"""Writes the truth of a world as files of a build, so that a stage can run on correct input.

A *scoring root* holds the images of a build and correct files of the layers before one stage: the true captions for the
tagger, the true nouns for the detector, the true boxes for the segmenter. The stage then runs on them as in any build.
"""

import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pyarrow.parquet as pq

from labeling.build import label_part
from labeling.config import LabelingConfig
from labeling.sdd import masks
from labeling.sdd.arrow import names_of, row_of
from labeling.sdd.schema import Candidate, Caption, Detection, Detections, Entities, Layer, Noun, Nouns, Segment
from labeling.sdd.shards import ShardStore
from labeling.steps import Step
from miniature.world.serve import TrueSubject, Truth

STAMP = "truth"


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageUrl:
    """Key and URL of an image of the build."""

    key: bytes
    url: str


def read_truth(path: Path) -> dict[str, Truth]:
    """Read the truth of each URL of a world."""
    records = pq.read_table(path, columns=list(names_of(Truth))).to_pylist()
    return {truth.url: truth for truth in (row_of(Truth, record) for record in records)}


def image_truths(store: ShardStore, shard: str, truth: dict[str, Truth]) -> Iterator[tuple[bytes, Truth]]:
    """Yield key and truth of each downloaded image of a shard.

    Raises:
        ValueError: an image does not belong to this world.
    """
    for row in store.read(ImageUrl, (Layer.IMAGES,), shard):
        if row.url not in truth:
            raise ValueError(
                f"{store.path(Layer.IMAGES, shard)} holds {row.url}: give the truth of the world it is from"
            )
        yield row.key, truth[row.url]


def true_nouns(truth: Truth) -> tuple[Noun, ...]:
    """Return the nouns of the true caption: the words for the subjects, then the background."""
    end = 0
    nouns = []
    for label in (*(s.label for s in truth.subjects), truth.background):
        place = re.compile(rf"\b{re.escape(label)}\b").search(truth.caption, end)
        assert place is not None, f"{truth.caption!r} lacks {label!r}"
        end = place.end()
        nouns.append(Noun(label=label, span_start=place.start(), span_end=end))
    return tuple(nouns)


def true_detections(truth: Truth) -> tuple[Detection, ...]:
    """Return the true boxes with score 1."""
    nouns = {noun.label: noun for noun in true_nouns(truth)}
    return tuple(_detection(subject, nouns[subject.label]) for subject in truth.subjects)


def true_candidates(truth: Truth) -> tuple[Candidate, ...]:
    """Return the true boxes with the true masks."""
    return tuple(
        Candidate.from_detection(detection, _segment(subject))
        for detection, subject in zip(true_detections(truth), truth.subjects, strict=True)
    )


def _detection(subject: TrueSubject, noun: Noun) -> Detection:
    return Detection(label=noun.label, span_start=noun.span_start, span_end=noun.span_end, score=1.0, box=subject.box)


def _segment(subject: TrueSubject) -> Segment:
    return Segment(mask=subject.mask, area_px=masks.area_px(subject.mask), predicted_iou=1.0, stability=1.0)


@dataclass(frozen=True, slots=True)
class TrueLayer:
    """A layer of the build with correct rows."""

    name: str
    row: type
    of: Callable[[bytes, Truth], object]
    """Makes the row of an image from its key and truth."""


LAYERS = (
    TrueLayer("captions", Caption, lambda key, truth: Caption(key=key, caption=truth.caption)),
    TrueLayer("nouns", Nouns, lambda key, truth: Nouns(key=key, nouns=true_nouns(truth))),
    TrueLayer("detections", Detections, lambda key, truth: Detections(key=key, detections=true_detections(truth))),
    TrueLayer("entities", Entities, lambda key, truth: Entities(key=key, candidates=true_candidates(truth))),
)


def write_truth(build: ShardStore, scoring: ShardStore, truth: dict[str, Truth], layers: Iterable[str]) -> None:
    """Copy images/ of `build` to `scoring` and write correct `layers` there."""
    names = set(layers)
    for shard in build.shards(Layer.IMAGES):
        copy = scoring.path(Layer.IMAGES, shard)
        copy.parent.mkdir(parents=True, exist_ok=True)
        copy.write_bytes(build.path(Layer.IMAGES, shard).read_bytes())
        for layer in (layer for layer in LAYERS if layer.name in names):
            rows = (layer.of(key, own) for key, own in image_truths(build, shard, truth))
            scoring.write_outcomes(layer.name, shard, rows, layer.row, STAMP, replace=True)


def run_on_truth(config: LabelingConfig, step: Step, truth: dict[str, Truth], scoring_root: str) -> ShardStore:
    """Run the stage of `step` in `scoring_root`, on the images of `config.root` and the true layers before it."""
    build, scoring = ShardStore(config.root), ShardStore(scoring_root)
    write_truth(build, scoring, truth, step.reads[1:])
    at = config.model_copy(update={"root": scoring_root})
    label_part(at, step, scoring.shards(Layer.IMAGES), run="score")
    return scoring
