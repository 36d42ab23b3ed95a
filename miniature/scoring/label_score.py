"""Scores a build of the miniature world against its truth, stage by stage and end to end.

    subject-diffusion score labels --config demo --truth out/demo/world/truth.parquet --scoring out/scoring

It reads the files that a real `build` left, nothing in memory. With `--scoring FOLDER` each stage but the captioner is
run once more on its *true* input, through its ordinary backend, so that a loss can be traced to its stage.

What counts, per image that was downloaded:
    noun     one of the true caption's: a subject, by its name or its class word, or the background
    subject  the same without the words of backgrounds
    box      a subject, when the label is one of its words and the IoU is .5 or more
    mask     its IoU with the true mask, for each subject whose true box passes the rules on boxes; none is 0
    entity   a subject whose true box and mask pass all rules, when label and box are right and the mask's IoU is .75;
             `precision, any` counts those of every subject, whether the truth passes the rules or not
Scenes with a sprite that no network was trained on are counted apart, and so are scenes on backgrounds that none was
trained on (`--untaught-scenes`).
"""

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from labeling.backends.load import load_segmenter
from labeling.backends.sam.predict import SamImage
from labeling.config import BoxRules, LabelingConfig, RulesConfig, SegmentConfig
from labeling.rules import broken_box_rules, broken_rules
from labeling.sdd import masks
from labeling.sdd.schema import Candidate, Detections, Entities, Entity, Layer, Mask, Nouns
from labeling.sdd.shards import ShardStore
from labeling.stages.segment import SegmentInput, SegmentStage
from labeling.steps import steps_of
from miniature.scoring.figures import Figure, Table, mean_by_image, share_by_image
from miniature.scoring.true_layers import run_on_truth, true_candidates, true_detections, truths_of
from miniature.training.matching import matched_boxes, matched_words
from miniature.world.backgrounds import BACKGROUNDS, UNTAUGHT
from miniature.world.scenes import Pool, Scene, ScenesConfig, compose
from miniature.world.serve import TrueSubject, Truth, WorldConfig, jpeg, truth_of

MIN_MASK_IOU = 0.75
TRAINED, HELD_OUT = "trained", "held out"
TAUGHT_PLACES, UNTAUGHT_PLACES = "taught", "untaught"
UNTAUGHT_SEED = 20262
TABLE = Table({"stage": 10, "input": 5, "sprites": 8, "backgrounds": 8}, name_width=17)
"""`input` is built: what the stages before it had made; or true: what they ought to have made. `sprites` is `HELD_OUT`
for scenes with one that is, else `TRAINED`. `backgrounds` says whether the networks were trained on them."""


@dataclass(frozen=True, slots=True)
class Tally:
    """What one image adds to the figures of a stage."""

    hits: Mapping[str, tuple[int, int]]
    """Right and all, by the name of a share."""
    values: Mapping[str, Sequence[float]]
    """Numbers to take the mean of."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Product:
    """What the score reads of sdd/."""

    key: bytes
    entities: tuple[Entity, ...]


def score_nouns(store: ShardStore, truth: dict[str, Truth], input: str) -> list[Figure]:
    """Recall and precision of nouns/; `own_word` asks for the very word of the true caption."""
    return _figures("nouns", input, _tallies(store, truth, Nouns, "nouns", lambda t, row: _nouns(t, _or(row, "nouns"))))


def score_boxes(store: ShardStore, truth: dict[str, Truth], input: str) -> list[Figure]:
    """Recall, precision and mean IoU of detections/."""
    tallies = _tallies(store, truth, Detections, "detections", lambda t, row: _boxes(t, _or(row, "detections")))
    return _figures("boxes", input, tallies)


def score_masks(store: ShardStore, truth: dict[str, Truth], floor: BoxRules, input: str) -> list[Figure]:
    """Mean IoU of the masks of entities/, of the subjects whose true box passes `floor`."""
    tallies = _tallies(store, truth, Entities, "entities", lambda t, row: _masks(t, _or(row, "candidates"), floor))
    return _figures("masks", input, tallies)


def score_entities(store: ShardStore, truth: dict[str, Truth], rules: RulesConfig) -> list[Figure]:
    """Recall and precision of sdd/: the right noun, box and mask."""
    tallies = _tallies(store, truth, Product, "sdd", lambda t, row: _entities(t, _or(row, "entities"), rules))
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
    """All figures of the build in `config.root`."""
    store = ShardStore(config.root)
    return [
        *score_nouns(store, truth, "built"),
        *score_boxes(store, truth, "built"),
        *score_masks(store, truth, config.segment.floor, "built"),
        *score_entities(store, truth, config.rules),
    ]


def score_stages(config: LabelingConfig, truth: dict[str, Truth], scoring: Path) -> list[Figure]:
    """The figures of each stage that reads another's files, run on its true input under `scoring`."""
    _, nouns, detect, segment = steps_of(config)
    ran = {s.stage.name: run_on_truth(config, s, truth, str(scoring / s.stage.name)) for s in (nouns, detect, segment)}
    return [
        *score_nouns(ran["nouns"], truth, "true"),
        *score_boxes(ran["detections"], truth, "true"),
        *score_masks(ran["entities"], truth, config.segment.floor, "true"),
    ]


def score_untaught(segmenter: SegmentConfig, scenes: int) -> list[Figure]:
    """The masks from true boxes of held-out subjects on untaught backgrounds, in `scenes` scenes composed for it."""
    stage = SegmentStage(segmenter, load_segmenter)
    stage.setup()
    config = ScenesConfig(pool=Pool.HELD_OUT, backgrounds=tuple(UNTAUGHT))
    composed = (compose((UNTAUGHT_SEED, index), config) for index in range(scenes))
    tallies = [(HELD_OUT, _true_box_masks(stage, scene)) for scene in composed]
    return _figures("masks", "true", tallies, UNTAUGHT_PLACES)


def _true_box_masks(stage: SegmentStage[SamImage], scene: Scene) -> Tally:
    truth = truth_of("", scene)
    row = SegmentInput(
        key=b"",
        image=jpeg(scene.image, WorldConfig().jpeg_quality),
        width_px=truth.width_px,
        height_px=truth.height_px,
        detections=true_detections(truth),
    )
    (found,) = stage.process([stage.prepare(row)])
    return _masks(truth, _or(found, "candidates"), stage.config.floor)


def _nouns(truth: Truth, found: Sequence[Any]) -> Tally:
    labels = [noun.label for noun in found]
    subjects = len(matched_words(labels, truth.subjects))
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


def _boxes(truth: Truth, found: Sequence[Any]) -> Tally:
    overlaps = [overlap for _, _, overlap in matched_boxes(found, truth.subjects)]
    hits = {"recall": (len(overlaps), len(truth.subjects)), "precision": (len(overlaps), len(found))}
    return Tally(hits, {"iou": overlaps})


def _masks(truth: Truth, found: Sequence[Candidate], floor: BoxRules) -> Tally:
    broken = broken_box_rules(true_detections(truth), truth.width_px, truth.height_px, floor)
    worth = [s for s, rules in zip(truth.subjects, broken, strict=True) if not rules]
    own = {known.name: candidate for candidate, known, _ in matched_boxes(found, worth)}
    ious = [_mask_iou(_mask_of(own.get(s.name)), s.mask, truth) for s in worth]
    return Tally({f"over {MIN_MASK_IOU}": (sum(i >= MIN_MASK_IOU for i in ious), len(ious))}, {"iou": ious})


def _entities(truth: Truth, found: Sequence[Entity], rules: RulesConfig) -> Tally:
    broken = broken_rules(true_candidates(truth), truth.width_px, truth.height_px, rules)
    worth = [s for s, names in zip(truth.subjects, broken, strict=True) if not names]
    right = _right_entities(truth, found, worth)
    elsewhere = len(matched_boxes(found, [s for s in truth.subjects if s not in worth]))
    return Tally(
        {
            "recall": (right, len(worth)),
            "precision": (right, len(found)),
            "precision, any": (_right_entities(truth, found, truth.subjects), len(found)),
            "outside the rules": (elsewhere, len(found)),
        },
        {},
    )


def _right_entities(truth: Truth, found: Sequence[Entity], subjects: Sequence[TrueSubject]) -> int:
    """How many of `subjects` have an entity with the right label, box and mask."""
    pairs = matched_boxes(found, subjects)
    return sum(_mask_iou(entity.mask, subject.mask, truth) >= MIN_MASK_IOU for entity, subject, _ in pairs)


def _mask_of(candidate: Candidate | None) -> Mask | None:
    return None if candidate is None or candidate.segment is None else candidate.segment.mask


def _mask_iou(found: Mask | None, true: Mask, truth: Truth) -> float:
    if found is None:
        return 0.0
    one, other = (masks.decode(mask, truth.height_px, truth.width_px) for mask in (found, true))
    return float((one & other).sum() / (one | other).sum())


def _or(row: Any, name: str) -> Sequence[Any]:
    """A row's list; nothing where the stage refused the image."""
    items: Sequence[Any] = () if row is None else getattr(row, name)
    return items


def _tallies(
    store: ShardStore, truth: dict[str, Truth], row: type, layer: str, of: Callable[[Truth, Any], Tally]
) -> Iterator[tuple[str, Tally]]:
    """For each image which sprites it has, and what `of` makes of its truth and its row of `layer`, if it has one."""
    for shard in store.shards(Layer.IMAGES):
        rows: Iterator[Any] = store.read(row, (layer,), shard)
        kept = {found.key: found for found in rows}
        for key, own in truths_of(store, shard, truth):
            yield _sprites(own.subjects), of(own, kept.get(key))


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
