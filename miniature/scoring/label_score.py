"""Scores a build of the miniature world against its truth, stage by stage and end to end.

    subject-diffusion score labels --config demo --truth out/demo/world/truth.parquet --scoring out/scoring

It reads the files of a real `build`. With `--scoring FOLDER`, each stage except the captioner also runs on its *true*
input, with its ordinary backend, so that an error can be attributed to a stage.

For each downloaded image, the score counts as right:
    noun     a noun of the true caption: a subject, by its name or its class word, or the background
    subject  the same without the words of backgrounds
    box      a box whose label is a word of the subject and whose IoU with the true box is at least .5
    mask     the IoU with the true mask, for each subject whose true box passes the rules on boxes; 0 without a mask
    entity   an entity with the right label and box and a mask IoU of at least .75, for each subject whose true box and
             mask pass all rules; `precision, any` counts the entities of all subjects
Scenes with held-out sprites and scenes on untaught backgrounds (`--untaught-scenes`) have figures of their own; no
network was trained on either.
"""

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from labeling.backends.load import load_segmenter
from labeling.backends.sam.predict import SamImage
from labeling.config import BoxRules, LabelingConfig, RulesConfig, SegmentConfig
from labeling.rules import broken_box_rules, broken_rules
from labeling.sdd import masks
from labeling.sdd.schema import Candidate, Detection, Detections, Entities, Entity, Layer, Mask, Noun, Nouns
from labeling.sdd.shards import ShardStore
from labeling.stages.segment import SegmentInput, SegmentStage
from labeling.steps import steps_of
from miniature.scoring.figures import Figure, Table, mean_by_image, share_by_image
from miniature.scoring.true_layers import image_truths, run_on_truth, true_candidates, true_detections
from miniature.training.matching import match_boxes, match_words
from miniature.world.backgrounds import BACKGROUNDS, PATTERNS, UNTAUGHT
from miniature.world.scenes import Pool, Scene, ScenesConfig, compose
from miniature.world.serve import TrueSubject, Truth, WorldConfig, jpeg, scene_truth

MIN_MASK_IOU = 0.75
TRAINED, HELD_OUT = "trained", "held out"
TAUGHT_PLACES, UNTAUGHT_PLACES, PATTERN_PLACES = "taught", "untaught", "patterns"
UNTAUGHT_SEED = 20262
TABLE = Table({"stage": 10, "input": 5, "sprites": 8, "backgrounds": 8}, name_width=17)
"""Table of the figures. `input` is "built" if a stage ran on the output of the stages before it, "true" if it ran on
the truth. `sprites` is `HELD_OUT` for scenes with a held-out sprite, otherwise `TRAINED`. `backgrounds` is
`TAUGHT_PLACES` if the networks were trained on the scenes' backgrounds, otherwise `UNTAUGHT_PLACES` or, for the
backgrounds of `PATTERNS`, `PATTERN_PLACES`."""
RowT = TypeVar("RowT", Nouns, Detections, Entities, "Product")


@dataclass(frozen=True, slots=True)
class Tally:
    """Contribution of one image to the figures of a stage."""

    hits: Mapping[str, tuple[int, int]]
    """Number of hits and number of items, by name of the share."""
    values: Mapping[str, Sequence[float]]
    """Values to average, by name of the mean."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Product:
    """Columns of sdd/ that the score reads."""

    key: bytes
    entities: tuple[Entity, ...]


def score_nouns(store: ShardStore, truth: dict[str, Truth], input: str) -> list[Figure]:
    """Return recall and precision of nouns/; `own_word` accepts only the word of the true caption."""
    tallies = _tallies(store, truth, Nouns, "nouns", lambda t, row: _nouns(t, row.nouns if row else ()))
    return _figures("nouns", input, tallies)


def score_boxes(store: ShardStore, truth: dict[str, Truth], input: str) -> list[Figure]:
    """Return recall, precision and mean IoU of detections/."""
    tallies = _tallies(store, truth, Detections, "detections", lambda t, row: _boxes(t, row.detections if row else ()))
    return _figures("boxes", input, tallies)


def score_masks(store: ShardStore, truth: dict[str, Truth], floor: BoxRules, input: str) -> list[Figure]:
    """Return the mean IoU of the masks of entities/, over the subjects whose true box passes `floor`."""
    tallies = _tallies(
        store, truth, Entities, "entities", lambda t, row: _masks(t, row.candidates if row else (), floor)
    )
    return _figures("masks", input, tallies)


def score_entities(store: ShardStore, truth: dict[str, Truth], rules: RulesConfig) -> list[Figure]:
    """Return recall and precision of sdd/: noun, box and mask must be right."""
    tallies = _tallies(store, truth, Product, "sdd", lambda t, row: _entities(t, row.entities if row else (), rules))
    return _figures("end to end", "built", tallies)


def score_labels(
    config: LabelingConfig, truth: dict[str, Truth], scoring: Path | None, untaught_scenes: int
) -> list[Figure]:
    """Return the figures of the build, those of each stage if `scoring` is given, and those on untaught backgrounds."""
    return [
        *score_build(config, truth),
        *(score_stages(config, truth, scoring) if scoring else ()),
        *(score_untaught(config.segment, untaught_scenes) if untaught_scenes else ()),
    ]


def score_build(config: LabelingConfig, truth: dict[str, Truth]) -> list[Figure]:
    """Return all figures of the build in `config.root`."""
    store = ShardStore(config.root)
    return [
        *score_nouns(store, truth, "built"),
        *score_boxes(store, truth, "built"),
        *score_masks(store, truth, config.segment.floor, "built"),
        *score_entities(store, truth, config.rules),
    ]


def score_stages(config: LabelingConfig, truth: dict[str, Truth], scoring: Path) -> list[Figure]:
    """Return the figures of each stage that reads another's files, run on its true input in `scoring`."""
    _, *steps = steps_of(config)
    tagged, detected, segmented = (run_on_truth(config, step, truth, str(scoring / step.stage.name)) for step in steps)
    return [
        *score_nouns(tagged, truth, "true"),
        *score_boxes(detected, truth, "true"),
        *score_masks(segmented, truth, config.segment.floor, "true"),
    ]


def score_untaught(segmenter: SegmentConfig, scenes: int) -> list[Figure]:
    """Return the figures of masks from true boxes, in scenes of held-out subjects on backgrounds of no training.

    There are `scenes` scenes on those of `UNTAUGHT`, and as many on those of `PATTERNS`.
    """
    stage = SegmentStage(segmenter, load_segmenter)
    stage.setup()
    figures = []
    for places, backgrounds in ((UNTAUGHT_PLACES, UNTAUGHT), (PATTERN_PLACES, PATTERNS)):
        config = ScenesConfig(pool=Pool.HELD_OUT, backgrounds=tuple(backgrounds))
        composed = (compose((UNTAUGHT_SEED, index), config) for index in range(scenes))
        tallies = [(HELD_OUT, _true_box_masks(stage, scene)) for scene in composed]
        figures += _figures("masks", "true", tallies, places)
    return figures


def _true_box_masks(stage: SegmentStage[SamImage], scene: Scene) -> Tally:
    truth = scene_truth("", scene)
    row = SegmentInput(
        key=b"",
        image=jpeg(scene.image, WorldConfig().jpeg_quality),
        width_px=truth.width_px,
        height_px=truth.height_px,
        detections=true_detections(truth),
    )
    (outcome,) = stage.process([stage.prepare(row)])
    candidates = outcome.candidates if isinstance(outcome, Entities) else ()
    return _masks(truth, candidates, stage.config.floor)


def _nouns(truth: Truth, nouns: Sequence[Noun]) -> Tally:
    labels = [noun.label for noun in nouns]
    subjects = len(match_words(labels, truth.subjects))
    right, true = subjects + (truth.background in labels), len(truth.subjects) + 1
    own = len({*(s.label for s in truth.subjects), truth.background} & set(labels))
    return Tally(
        {
            "recall": (right, true),
            "precision": (right, len(labels)),
            "subject recall": (subjects, len(truth.subjects)),
            "subject precision": (subjects, sum(label not in BACKGROUNDS for label in labels)),
            "own_word": (own, true),
        },
        {},
    )


def _boxes(truth: Truth, detections: Sequence[Detection]) -> Tally:
    overlaps = [overlap for _, _, overlap in match_boxes(detections, truth.subjects)]
    hits = {"recall": (len(overlaps), len(truth.subjects)), "precision": (len(overlaps), len(detections))}
    return Tally(hits, {"iou": overlaps})


def _masks(truth: Truth, candidates: Sequence[Candidate], floor: BoxRules) -> Tally:
    broken = broken_box_rules(true_detections(truth), truth.width_px, truth.height_px, floor)
    passing = [s for s, rules in zip(truth.subjects, broken, strict=True) if not rules]
    by_name = {subject.name: candidate for candidate, subject, _ in match_boxes(candidates, passing)}
    ious = [_mask_iou(_mask_of(by_name.get(s.name)), s.mask, truth) for s in passing]
    return Tally({f"over {MIN_MASK_IOU}": (sum(i >= MIN_MASK_IOU for i in ious), len(ious))}, {"iou": ious})


def _entities(truth: Truth, entities: Sequence[Entity], rules: RulesConfig) -> Tally:
    broken = broken_rules(true_candidates(truth), truth.width_px, truth.height_px, rules)
    passing = [s for s, names in zip(truth.subjects, broken, strict=True) if not names]
    right = _right_entities(truth, entities, passing)
    elsewhere = len(match_boxes(entities, [s for s in truth.subjects if s not in passing]))
    return Tally(
        {
            "recall": (right, len(passing)),
            "precision": (right, len(entities)),
            "precision, any": (_right_entities(truth, entities, truth.subjects), len(entities)),
            "outside the rules": (elsewhere, len(entities)),
        },
        {},
    )


def _right_entities(truth: Truth, entities: Sequence[Entity], subjects: Sequence[TrueSubject]) -> int:
    """Return how many of `subjects` have an entity with the right label, box and mask."""
    pairs = match_boxes(entities, subjects)
    return sum(_mask_iou(entity.mask, subject.mask, truth) >= MIN_MASK_IOU for entity, subject, _ in pairs)


def _mask_of(candidate: Candidate | None) -> Mask | None:
    return None if candidate is None or candidate.segment is None else candidate.segment.mask


def _mask_iou(mask: Mask | None, true: Mask, truth: Truth) -> float:
    if mask is None:
        return 0.0
    one, other = (masks.decode(each, truth.height_px, truth.width_px) for each in (mask, true))
    return float((one & other).sum() / (one | other).sum())


def _tallies(
    store: ShardStore,
    truth: dict[str, Truth],
    row: type[RowT],
    layer: str,
    tally: Callable[[Truth, RowT | None], Tally],
) -> Iterator[tuple[str, Tally]]:
    """Yield `TRAINED` or `HELD_OUT` for each image, and the tally of its row of `layer` against its truth.

    Images that the stage refused have no row.
    """
    for shard in store.shards(Layer.IMAGES):
        by_key = {kept.key: kept for kept in store.read(row, (layer,), shard)}
        for key, own in image_truths(store, shard, truth):
            yield _sprites(own.subjects), tally(own, by_key.get(key))


def _sprites(subjects: Sequence[TrueSubject]) -> str:
    return HELD_OUT if any(subject.held_out for subject in subjects) else TRAINED


def _figures(
    stage: str, input: str, tallies: Iterable[tuple[str, Tally]], backgrounds: str = TAUGHT_PLACES
) -> list[Figure]:
    hits: dict[tuple[str, str], list[tuple[int, int]]] = defaultdict(list)
    values: dict[tuple[str, str], list[Sequence[float]]] = defaultdict(list)
    for sprites, tally in tallies:
        for name, pair in tally.hits.items():
            hits[sprites, name].append(pair)
        for name, own in tally.values.items():
            values[sprites, name].append(own)
    shared = {"stage": stage, "input": input, "backgrounds": backgrounds}
    of = {sprites: shared | {"sprites": sprites} for sprites in (TRAINED, HELD_OUT)}
    shares = [share_by_image(of[sprites], name, pairs) for (sprites, name), pairs in hits.items()]
    means = [mean_by_image(of[sprites], name, own) for (sprites, name), own in values.items() if any(own)]
    return sorted(shares + means, key=lambda figure: figure.of["sprites"] != TRAINED)
