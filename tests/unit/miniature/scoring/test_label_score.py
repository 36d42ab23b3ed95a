"""The scorer on exact files and on files with planted faults."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from infra.precision import Precision
from labeling.config import LabelingConfig, RulesConfig, SegmentConfig
from labeling.finish import FinishJob
from labeling.sdd.schema import Box, Candidate, Detections, Entities, Image, ListedUrl, Mask, Noun, Nouns, Verdict
from labeling.sdd.shards import Refused, ShardStore
from labeling.steps import steps_of
from miniature.scoring.figures import Figure
from miniature.scoring.label_score import (
    HELD_OUT,
    TRAINED,
    score_boxes,
    score_build,
    score_entities,
    score_nouns,
    score_untaught,
)
from miniature.scoring.true_layers import STAMP, image_truths, read_truth, run_on_truth, true_nouns, write_truth
from miniature.world.backgrounds import BACKGROUNDS
from miniature.world.scenes import Pool, ScenesConfig
from miniature.world.serve import TRUTH, Truth, WorldConfig, write_world
from tests.factories import image, listed

SCENES = ScenesConfig(width_px=(160, 200), height_px=(160, 200), pool=Pool.ALL, subjects=(1, 4))
SHARD = "shard-00000"
LAYERS = ("captions", "nouns", "detections", "entities")
Faults = dict[str, Callable[[Any], Any]]


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("world")
    write_world(folder, 24, seed=3, config=WorldConfig(scenes=SCENES))
    return folder


@pytest.fixture(scope="module")
def truth(world: Path) -> dict[str, Truth]:
    return read_truth(world / TRUTH)


@pytest.fixture(scope="module")
def downloaded(world: Path, truth: dict[str, Truth], tmp_path_factory: pytest.TempPathFactory) -> ShardStore:
    """A build's images/."""
    store = ShardStore(str(tmp_path_factory.mktemp("downloaded")))
    rows = []
    for number, (url, own) in enumerate(truth.items()):
        encoded = (world / "images" / Path(url).name).read_bytes()
        rows.append(replace(image(number, encoded, url), width_px=own.width_px, height_px=own.height_px))
    store.write_outcomes("images", SHARD, rows, Image, "downloaded")
    return store


def built(downloaded: ShardStore, truth: dict[str, Truth], root: Path, faults: Faults) -> LabelingConfig:
    """A build whose every layer is the truth, but for what `faults` do to the rows of a layer."""
    store = ShardStore(str(root))
    write_truth(downloaded, store, truth, LAYERS)
    store.write("urls", SHARD, [listed(n, url) for n, url in enumerate(truth)], ListedUrl, STAMP)
    for layer, fault in faults.items():
        row: Any = {"nouns": Nouns, "detections": Detections, "entities": Entities}[layer]
        rows = [fault(found) for found in store.read(row, (layer,), SHARD)]
        store.write_outcomes(layer, SHARD, rows, row, STAMP, replace=True)
    config = LabelingConfig(root=str(root))
    report = FinishJob(root=config.root, rules=config.rules, layers=("images", *LAYERS)).make(SHARD)
    assert report.error is None
    return config


def value(figures: list[Figure], stage: str, name: str, sprites: str = TRAINED) -> float:
    return next(f.value for f in figures if (f.of["stage"], f.name, f.of["sprites"]) == (stage, name, sprites))


def test_the_truth_is_perfect(downloaded: ShardStore, truth: dict[str, Truth], tmp_path: Path) -> None:
    figures = score_build(built(downloaded, truth, tmp_path, {}), truth)
    assert {f.of["sprites"] for f in figures} == {TRAINED, HELD_OUT}
    for figure in figures:
        assert figure.value == (0.0 if figure.name == "outside the rules" else 1.0), figure
    subjects = sum(len(own.subjects) for own in truth.values())
    assert sum(f.count for f in figures if (f.of["stage"], f.name) == ("boxes", "recall")) == subjects
    assert sum(f.count for f in figures if (f.of["stage"], f.name) == ("nouns", "recall")) == subjects + len(truth)
    assert 0 < sum(f.count for f in figures if (f.of["stage"], f.name) == ("end to end", "recall")) < subjects


def swapped_axes(row: Detections) -> Detections:
    def swap(box: Box) -> Box:
        return Box(x0=box.y0, y0=box.x0, x1=box.y1, y1=box.x1)

    return replace(row, detections=tuple(replace(d, box=swap(d.box)) for d in row.detections))


def shifted_masks(row: Entities) -> Entities:
    """Eight pixels to the right, those at the edge to the left."""

    def shift(mask: Mask) -> Mask:
        return replace(mask, x0=mask.x0 - 8 if mask.x0 >= 8 else mask.x0 + 8)

    def shifted(candidate: Candidate) -> Candidate:
        assert candidate.segment is not None
        return replace(candidate, segment=replace(candidate.segment, mask=shift(candidate.segment.mask)))

    return replace(row, candidates=tuple(map(shifted, row.candidates)))


def cut_prompt(row: Nouns) -> Nouns:
    """The first noun only, as if the rest of the prompt had been lost."""
    return replace(row, nouns=row.nouns[:1])


def invented(row: Nouns) -> Nouns:
    return replace(row, nouns=(*row.nouns, Noun(label="unicycle", span_start=0, span_end=1)))


@pytest.mark.parametrize(
    ("layer", "fault", "stage", "name", "line"),
    [
        ("detections", swapped_axes, "boxes", "recall", 0.4),
        ("entities", shifted_masks, "masks", "iou", 0.85),
        ("nouns", cut_prompt, "nouns", "recall", 0.5),
        ("nouns", invented, "nouns", "precision", 0.85),
    ],
)
def test_a_planted_fault_shows_in_its_stage_alone(
    downloaded: ShardStore,
    truth: dict[str, Truth],
    tmp_path: Path,
    layer: str,
    fault: Callable[[Any], Any],
    stage: str,
    name: str,
    line: float,
) -> None:
    figures = score_build(built(downloaded, truth, tmp_path, {layer: fault}), truth)
    assert value(figures, stage, name) < line
    others = {f.of["stage"] for f in figures if f.value < 1 and f.name != "outside the rules"} - {stage, "end to end"}
    assert not others


def test_lost_images_are_misses(downloaded: ShardStore, truth: dict[str, Truth], tmp_path: Path) -> None:
    refused = Verdict(state="dropped", reason="no_box")
    whole = built(downloaded, truth, tmp_path / "whole", {})
    lost = built(
        downloaded, truth, tmp_path / "lost", {"detections": lambda row: Refused(key=row.key, verdict=refused)}
    )
    assert value(score_boxes(ShardStore(whole.root), truth, "built"), "boxes", "recall") == 1.0
    figures = score_boxes(ShardStore(lost.root), truth, "built")
    assert value(figures, "boxes", "recall") == 0.0
    assert {f.name for f in figures} == {"recall", "precision"}


def test_either_word_of_a_subject_is_right_but_only_one_is_the_captions_own(
    downloaded: ShardStore, truth: dict[str, Truth], tmp_path: Path
) -> None:
    other = {}
    for number_key, own in image_truths(downloaded, SHARD, truth):
        words = {s.label: s.class_word if s.label == s.name else s.name for s in own.subjects}
        clear = len({s.class_word for s in own.subjects}) == len(own.subjects)
        nouns = true_nouns(own)
        other[number_key] = tuple(replace(n, label=words.get(n.label, n.label)) for n in nouns) if clear else nouns
    figures = score_build(
        built(downloaded, truth, tmp_path, {"nouns": lambda row: replace(row, nouns=other[row.key])}), truth
    )
    assert value(figures, "nouns", "recall") == value(figures, "nouns", "precision") == 1.0
    assert value(figures, "nouns", "own_word") < 0.6


def test_a_wrong_background_is_no_wrong_subject(
    downloaded: ShardStore, truth: dict[str, Truth], tmp_path: Path
) -> None:
    def moved(row: Nouns) -> Nouns:
        place = row.nouns[-1]
        return replace(row, nouns=(*row.nouns[:-1], replace(place, label="sky" if place.label != "sky" else "sand")))

    assert "sky" in BACKGROUNDS
    figures = score_build(built(downloaded, truth, tmp_path, {"nouns": moved}), truth)
    assert value(figures, "nouns", "subject recall") == value(figures, "nouns", "subject precision") == 1.0
    assert value(figures, "nouns", "recall") == value(figures, "nouns", "precision") < 0.8


def test_an_invented_subject_costs_the_precision_of_subjects(
    downloaded: ShardStore, truth: dict[str, Truth], tmp_path: Path
) -> None:
    figures = score_build(built(downloaded, truth, tmp_path, {"nouns": invented}), truth)
    assert value(figures, "nouns", "subject recall") == 1.0
    assert value(figures, "nouns", "subject precision") < value(figures, "nouns", "precision") < 1.0


def test_a_right_entity_of_a_subject_that_breaks_a_rule_counts_against_all_subjects_alone(
    downloaded: ShardStore, truth: dict[str, Truth], tmp_path: Path
) -> None:
    store = ShardStore(built(downloaded, truth, tmp_path, {}).root)
    figures = score_entities(store, truth, RulesConfig(min_box_share=0.2))
    assert value(figures, "end to end", "precision") < 0.6
    assert value(figures, "end to end", "precision, any") == 1.0


def test_masks_are_scored_on_both_sets_of_untaught_backgrounds() -> None:
    segmenter = SegmentConfig(checkpoint="miniature/weights/sam", precision=Precision.FLOAT32)
    figures = score_untaught(segmenter, scenes=3)
    named = sorted((f.of["backgrounds"], f.name) for f in figures)
    assert named == [(places, name) for places in ("patterns", "untaught") for name in ("iou", "over 0.75")]
    for figure in figures:
        expected = {"stage": "masks", "input": "true", "sprites": HELD_OUT, "backgrounds": figure.of["backgrounds"]}
        assert figure.of == expected
        assert figure.count > 0
        if figure.name == "iou":
            assert 0.5 < figure.value < 1.0
    assert len({f.value for f in figures if f.name == "iou"}) == 2


def test_a_stage_runs_on_its_true_input(downloaded: ShardStore, truth: dict[str, Truth], tmp_path: Path) -> None:
    """The ordinary tagger, in its own process, on the true captions: all that it loses is its own loss."""
    config = LabelingConfig(root=str(downloaded.root))
    tagger = steps_of(config)[1]
    figures = score_nouns(run_on_truth(config, tagger, truth, str(tmp_path)), truth, "true")
    assert value(figures, "nouns", "own_word") > 0.95
    assert value(figures, "nouns", "precision") > 0.95
    assert {f.of["input"] for f in figures} == {"true"}


def test_true_nouns_stand_where_they_say(truth: dict[str, Truth]) -> None:
    for own in truth.values():
        nouns = true_nouns(own)
        assert [own.caption[noun.span_start : noun.span_end] for noun in nouns] == [noun.label for noun in nouns]
        assert [noun.label for noun in nouns] == [*(s.label for s in own.subjects), own.background]


def test_an_image_of_another_world_is_refused(downloaded: ShardStore) -> None:
    with pytest.raises(ValueError, match="give the truth of the world"):
        list(image_truths(downloaded, SHARD, {}))
