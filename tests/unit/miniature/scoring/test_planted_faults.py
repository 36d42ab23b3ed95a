"""The trained networks label well, and faults that are planted around them show in the scorer's figures.

Each figure has one line: sound labels score above it, faulty ones below.
"""

import json
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from labeling.backends.load import load_captioner, load_detector, load_segmenter, load_tagger
from labeling.backends.sam.convert import export_checkpoint
from labeling.config import CaptionConfig, DetectConfig, DetectorBackend, NounConfig, SegmentConfig, SegmenterBackend
from labeling.sdd import masks
from labeling.sdd.schema import Box, Entities, Image, Nouns, State, Verdict
from labeling.sdd.shards import Refused, ShardStore
from labeling.stages.base import Drop
from labeling.stages.caption import CaptionStage
from labeling.stages.detect import DetectStage
from labeling.stages.nouns import NounStage
from labeling.stages.segment import SegmentStage
from miniature.scoring.figures import Figure
from miniature.scoring.label_score import score_boxes, score_masks, score_nouns
from miniature.scoring.true_layers import read_truth, write_truth
from miniature.world.names import labelled_names
from miniature.world.scenes import ScenesConfig
from miniature.world.serve import TRUTH, Truth, WorldConfig, write_world
from tests.factories import image

WEIGHTS = Path(__file__).parents[4] / "miniature" / "weights"
SCENES = ScenesConfig(width_px=(240, 320), height_px=(240, 320), subjects=(1, 4), names=labelled_names())
SHARD = "shard-00000"
LAYERS = ("captions", "nouns", "detections", "entities")
NOUNS, BOXES, MASKS = 0.6, 0.6, 0.86
"""The lines of noun recall, box recall and mask IoU."""


@dataclass(frozen=True)
class World:
    """Scenes that nothing was trained on, as images/ of a build."""

    truth: dict[str, Truth]
    build: ShardStore


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    folder = tmp_path_factory.mktemp("world")
    write_world(folder, 32, seed=6021, config=WorldConfig(scenes=SCENES))
    truth = read_truth(folder / TRUTH)
    store = ShardStore(str(tmp_path_factory.mktemp("build")))
    rows = [
        replace(
            image(number, (folder / "images" / Path(url).name).read_bytes(), url),
            width_px=own.width_px,
            height_px=own.height_px,
        )
        for number, (url, own) in enumerate(truth.items())
    ]
    store.write_outcomes("images", SHARD, rows, Image, "downloaded")
    return World(truth, store)


def unchanged(row: Any) -> Any:
    return row


def run(world: World, root: Path, stages: Sequence[Any], before: Any = unchanged, after: Any = unchanged) -> ShardStore:
    """Run `stages` one after the other on the truth of all layers before the first, `before` and `after` around the
    last of them."""
    store = ShardStore(str(root))
    write_truth(world.build, store, world.truth, LAYERS[: LAYERS.index(stages[0].name)])
    for stage in stages:
        last = stage is stages[-1]
        stage.setup()
        rows = list(store.read(stage.reads, ("images", *LAYERS[: LAYERS.index(stage.name)]), SHARD))
        prepared = [stage.prepare(before(row) if last else row) for row in rows]
        found = [_outcome(row.key, result) for row, result in zip(rows, stage.process(prepared), strict=True)]
        kept = [after(outcome) if last and not isinstance(outcome, Refused) else outcome for outcome in found]
        store.write_outcomes(stage.name, SHARD, kept, stage.writes, "tested")
    return store


def _outcome(key: bytes, result: Any) -> Any:
    if isinstance(result, Drop):
        return Refused(key=key, verdict=Verdict(state=State.DROPPED, reason=result.reason, detail=result.detail))
    return result


def value(figures: Sequence[Figure], name: str) -> float:
    return next(figure.value for figure in figures if figure.name == name)


def without_normalisation(folder: Path, to: Path) -> Path:
    """The same weights with a processor that leaves pixels between 0 and 1."""
    shutil.copytree(folder, to)
    for path in to.glob("*processor_config.json"):
        content = json.loads(path.read_text())
        own = content.get("image_processor", content)
        own["image_mean"], own["image_std"] = [0.0] * 3, [1.0] * 3
        path.write_text(json.dumps(content))
    return to


def with_swapped_axes(row: Any) -> Any:
    """A row of detections, or of what the segmenter reads, with x and y of its boxes swapped."""
    turned = [replace(d, box=Box(x0=d.box.y0, y0=d.box.x0, x1=d.box.y1, y1=d.box.x1)) for d in row.detections]
    return replace(row, detections=tuple(turned))


# Captions and their nouns


def noun_recall(world: World, root: Path, weights: Path, after: Callable[[Nouns], Nouns] = unchanged) -> float:
    caption = CaptionStage(
        CaptionConfig.model_validate({"checkpoint": str(weights), "precision": "float32"}), load_captioner
    )
    store = run(world, root, [caption, NounStage(NounConfig(), load_tagger)], after=after)
    return value(score_nouns(store, world.truth, "built"), "recall")


def test_sound_captions_name_what_is_there(world: World, tmp_path: Path) -> None:
    assert noun_recall(world, tmp_path, WEIGHTS / "blip2") > NOUNS


def test_captions_of_pixels_without_normalisation_do_not(world: World, tmp_path: Path) -> None:
    weights = without_normalisation(WEIGHTS / "blip2", tmp_path / "weights")
    assert noun_recall(world, tmp_path / "root", weights) < NOUNS


def test_a_caption_cut_after_its_first_noun_does_not(world: World, tmp_path: Path) -> None:
    def cut(row: Nouns) -> Nouns:
        return replace(row, nouns=row.nouns[:1])

    assert noun_recall(world, tmp_path, WEIGHTS / "blip2", after=cut) < NOUNS


# Boxes


def box_recall(world: World, root: Path, weights: Path = WEIGHTS / "grounding_dino", **around: Any) -> float:
    settings = {"checkpoint": str(weights), "backend": DetectorBackend.GROUNDING_DINO_HF}
    store = run(world, root, [DetectStage(DetectConfig.model_validate(settings), load_detector)], **around)
    return value(score_boxes(store, world.truth, "true"), "recall")


def test_sound_boxes_are_above_the_line(world: World, tmp_path: Path) -> None:
    assert box_recall(world, tmp_path) > BOXES


def test_a_cut_prompt_is_below_it(world: World, tmp_path: Path) -> None:
    assert box_recall(world, tmp_path, before=lambda row: replace(row, nouns=row.nouns[:1])) < BOXES


def test_swapped_axes_of_boxes_are_below_it(world: World, tmp_path: Path) -> None:
    assert box_recall(world, tmp_path, after=with_swapped_axes) < BOXES


def test_boxes_of_pixels_without_normalisation_are_below_it(world: World, tmp_path: Path) -> None:
    weights = without_normalisation(WEIGHTS / "grounding_dino", tmp_path / "weights")
    assert box_recall(world, tmp_path / "root", weights) < BOXES


# Masks


def segmented(world: World, root: Path, config: SegmentConfig, **around: Any) -> ShardStore:
    return run(world, root, [SegmentStage(config, load_segmenter)], **around)


def mask_iou(world: World, root: Path, weights: Path = WEIGHTS / "sam", **around: Any) -> float:
    config = settings(weights)
    store = segmented(world, root, config, **around)
    return value(score_masks(store, world.truth, config.floor, "true"), "iou")


def settings(weights: Path, backend: SegmenterBackend = SegmenterBackend.SAM_HF) -> SegmentConfig:
    return SegmentConfig.model_validate({"checkpoint": str(weights), "backend": backend, "precision": "float32"})


def test_sound_masks_are_above_the_line(world: World, tmp_path: Path) -> None:
    assert mask_iou(world, tmp_path) > MASKS


def test_swapped_axes_of_prompts_are_below_it(world: World, tmp_path: Path) -> None:
    assert mask_iou(world, tmp_path, before=with_swapped_axes) < MASKS


def test_masks_off_by_8_px_are_below_it(world: World, tmp_path: Path) -> None:
    def shifted(row: Entities) -> Entities:
        return replace(row, candidates=tuple(map(_moved, row.candidates)))

    assert mask_iou(world, tmp_path, after=shifted) < MASKS


def _moved(candidate: Any) -> Any:
    """Eight pixels to the right, at the left edge of the picture to the left."""
    if candidate.segment is None:
        return candidate
    mask = candidate.segment.mask
    off = -8 if mask.x0 >= 8 else 8
    return replace(candidate, segment=replace(candidate.segment, mask=replace(mask, x0=mask.x0 + off)))


def test_masks_of_pixels_without_normalisation_are_below_it(world: World, tmp_path: Path) -> None:
    weights = without_normalisation(WEIGHTS / "sam", tmp_path / "weights")
    assert mask_iou(world, tmp_path / "root", weights) < MASKS


def test_both_segmenters_make_the_same_masks_of_these_weights(world: World, tmp_path: Path) -> None:
    export_checkpoint(WEIGHTS / "sam", tmp_path / "sam.pth")
    configs = (settings(WEIGHTS / "sam"), settings(tmp_path / "sam.pth", SegmenterBackend.SEGMENT_ANYTHING))
    hf, package = (
        [
            c
            for row in segmented(world, tmp_path / c.backend, c).read(Entities, ("entities",), SHARD)
            for c in row.candidates
        ]
        for c in configs
    )
    assert len(hf) == len(package) > 30
    for one, other in zip(hf, package, strict=True):
        if one.segment and other.segment:
            sides = [max(b) for b in zip(*(_far(c.segment.mask) for c in (one, other)), strict=True)]
            a, b = (masks.decode(c.segment.mask, *sides) for c in (one, other))
            assert (a & b).sum() / (a | b).sum() >= 0.99
        else:
            assert one.segment is other.segment is None


def _far(mask: Any) -> tuple[int, int]:
    return mask.y0 + mask.height_px, mask.x0 + mask.width_px
