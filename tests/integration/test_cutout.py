"""The committed small networks cut subjects out of scenes of the miniature world, and survive photographs."""

import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from flows.cli import app
from flows.experiment import CutoutExperiment
from infra.config import load
from labeling.cutout import Cutter, FoundBy, RelativeBox
from labeling.errors import NothingFound
from labeling.photo import DecodedPhoto, read_photo
from miniature.world.names import taught_scenes
from miniature.world.scenes import Scene, Subject, compose

PHOTOGRAPHS = os.environ.get("SD_DREAMBENCH_DIR")
TWO = taught_scenes().model_copy(update={"subjects": (2, 2), "box_share": (0.08, 0.3)})
SEED = 20262
"""Seed of scenes that nothing was trained or tuned on."""


@pytest.fixture(scope="module")
def cutter() -> Cutter:
    networks = load(CutoutExperiment, "demo").labeling
    return Cutter(networks.detect, networks.segment)


@pytest.fixture(scope="module")
def scenes() -> list[Scene]:
    """Scenes of two subjects that share neither name nor class word."""
    composed = (compose((SEED, index), TWO) for index in range(12))
    return [scene for scene in composed if len({subject.sprite.class_word for subject in scene.subjects}) == 2]


def photo_of(scene: Scene) -> DecodedPhoto:
    return DecodedPhoto("scene.png", scene.image, None)


def box_of(subject: Subject) -> RelativeBox:
    height, width = subject.mask.shape
    box = subject.box
    return box.x0 / width, box.y0 / height, box.x1 / width, box.y1 / height


def mask_or_reason(
    cutter: Cutter, photo: DecodedPhoto, label: str, box: RelativeBox | None = None
) -> tuple[np.ndarray | None, str]:
    """Return the mask of the cut-out and an empty reason, or None and the reason why nothing was found."""
    try:
        return cutter.cut(photo, label, box=box).mask, ""
    except NothingFound as error:
        return None, str(error)


def iou(mask: np.ndarray, truth: np.ndarray) -> float:
    return float((mask & truth).sum() / (mask | truth).sum())


def detected_ious(cutter: Cutter, scenes: list[Scene]) -> Iterator[float]:
    """Yield the IoU of each subject's cut-out by its name with its truth; 0 for a subject that is not found."""
    for scene in scenes:
        for subject in scene.subjects:
            mask, _ = mask_or_reason(cutter, photo_of(scene), subject.sprite.name)
            yield 0.0 if mask is None else iou(mask, subject.mask)


def test_a_subject_is_found_by_its_label(cutter, scenes):
    ious = np.array(list(detected_ious(cutter, scenes)))
    assert len(ious) >= 16
    assert ious.mean() > 0.7


def test_a_box_is_segmented(cutter, scenes):
    cutouts = [(cutter.cut(photo_of(s), "thing", box=box_of(one)), one) for s in scenes for one in s.subjects]
    assert {cutout.found_by for cutout, _ in cutouts} == {FoundBy.BOX}
    assert all(cutout.box == box_of(one) for cutout, one in cutouts)
    assert np.mean([iou(cutout.mask, one.mask) for cutout, one in cutouts]) > 0.8


def test_a_box_corrects_what_the_detector_found(cutter, scenes):
    scene = scenes[0]
    wanted, other = scene.subjects
    wrong = cutter.cut(photo_of(scene), other.sprite.name)
    assert wrong.found_by is FoundBy.DETECTOR
    right = cutter.cut(photo_of(scene), other.sprite.name, box=box_of(wanted))
    assert iou(wrong.mask, wanted.mask) < 0.1
    assert iou(right.mask, wanted.mask) > 0.7


def test_nothing_outside_a_given_box_is_cut_out(cutter, scenes):
    """The right half of a subject: SAM marks some of the other half too."""
    for scene in scenes[:4]:
        x0, y0, x1, y1 = box_of(scene.subjects[0])
        height, width = scene.image.shape[:2]
        middle = (x0 + x1) / 2
        mask = cutter.cut(photo_of(scene), "thing", box=(middle, y0, x1, y1)).mask
        outside = mask.copy()
        outside[int(y0 * height) : round(y1 * height + 0.5), int(middle * width) : round(x1 * width + 0.5)] = False
        assert mask.any()
        assert not outside.any()


def test_every_candidate_can_be_taken(scenes):
    """With a threshold of almost 0 every box of the network is a candidate."""
    networks = load(CutoutExperiment, "demo", ["labeling.detect.box_threshold=0.001"]).labeling
    cutter, photo = Cutter(networks.detect, networks.segment), photo_of(scenes[0])
    label = scenes[0].subjects[0].sprite.name
    first = cutter.cut(photo, label)
    assert (first.candidate, first.box, first.score) == (1, first.candidates[0].box, first.candidates[0].score)
    assert cutter.find(photo, label) == first.candidates
    scores = [candidate.score for candidate in first.candidates]
    assert len(scores) > 1
    assert scores == sorted(scores, reverse=True)
    second = cutter.cut(photo, label, candidate=2)
    assert (second.candidate, second.box, second.score) == (2, first.candidates[1].box, scores[1])
    assert (second.mask != first.mask).any()
    with pytest.raises(NothingFound, match=rf"no candidate {len(scores) + 1}.* from 1 to {len(scores)}"):
        cutter.cut(photo, label, candidate=len(scores) + 1)


def test_threads_share_a_cutter(scenes):
    """The networks are loaded by whichever thread is first, and every thread gets the cut-outs of a single one."""
    networks = load(CutoutExperiment, "demo").labeling
    shared, alone = (Cutter(networks.detect, networks.segment) for _ in range(2))
    boxes = [(photo_of(scene), box_of(subject)) for scene in scenes[:3] for subject in scene.subjects]
    with ThreadPoolExecutor(6) as threads:
        together = list(threads.map(lambda given: shared.cut(given[0], "thing", box=given[1]).mask, boxes))
    for mask, (photo, box) in zip(together, boxes, strict=True):
        np.testing.assert_array_equal(mask, alone.cut(photo, "thing", box=box).mask)


@pytest.mark.parametrize("size", [(1, 1), (2, 3), (200, 2), (3, 300), (3000, 30)])
def test_a_photo_of_any_shape_has_a_cut_out_or_an_error(cutter, size):
    photo = DecodedPhoto("flat.png", np.full((size[1], size[0], 3), 90, np.uint8), None)
    for box in (None, (0.0, 0.0, 1.0, 1.0), (0.5, 0.5, 0.5001, 0.5001)):
        mask, reason = mask_or_reason(cutter, photo, "apple", box)
        assert "flat.png: " in reason if mask is None else mask.shape == size[::-1] and mask.any()


@pytest.mark.parametrize("label", [".", "[SEP]", "x" * 5000, "\u72d7", "an apple. a dog? [CLS]"])
def test_any_label_has_a_cut_out_or_an_error(cutter, scenes, label):
    mask, reason = mask_or_reason(cutter, photo_of(scenes[0]), label)
    assert "give a box" in reason if mask is None else mask.any()


def run(*words: str) -> str:
    done = CliRunner().invoke(app, ["cutout", *words])
    assert done.exit_code == 0, done.exception or done.output
    return done.stdout


def test_the_verb_writes_cut_out_and_preview_and_a_box_corrects_them(scenes, tmp_path):
    scene, photo = scenes[0], tmp_path / "scene.png"
    wanted, other = scene.subjects
    Image.fromarray(scene.image).save(photo)
    out, preview = tmp_path / "out.png", tmp_path / "preview.png"
    text = run(str(photo), "--label", other.sprite.name, "--out", str(out), "--preview", str(preview))
    assert f"{out}: {other.sprite.name}, " in text
    assert "small networks of miniature/weights (grounding_dino, sam) know only" in text
    first = np.asarray(Image.open(out))
    np.testing.assert_array_equal(first[..., :3], scene.image)
    assert iou(first[..., 3] == 255, other.mask) > 0.7
    assert Image.open(preview).size == scene.image.shape[1::-1]
    box = ",".join(map(str, box_of(wanted)))
    run(str(out), "--label", other.sprite.name, "--box", box, "--out", str(tmp_path / "corrected.png"))
    corrected = np.asarray(Image.open(tmp_path / "corrected.png"))
    np.testing.assert_array_equal(corrected[..., :3], scene.image)
    assert iou(corrected[..., 3] == 255, wanted.mask) > 0.7


def test_a_subject_that_is_not_there_is_an_error_with_a_cure(tmp_path):
    Image.new("RGB", (300, 200), (90, 120, 200)).save(tmp_path / "sky.png")
    done = CliRunner().invoke(app, ["cutout", str(tmp_path / "sky.png"), "--label", "piano"])
    assert (done.exit_code, done.stdout) == (2, "")
    line = done.stderr.splitlines()[-1]
    assert f"error: {tmp_path}/sky.png: the detector found no 'piano'" in line
    assert "give a box" in line
    assert "small networks of miniature/weights (grounding_dino, sam) know only" in line
    assert not (tmp_path / "sky.cutout.png").exists()


@pytest.mark.skipif(not PHOTOGRAPHS, reason="SD_DREAMBENCH_DIR names no folder of photographs")
def test_a_photograph_has_a_cut_out_or_an_error(cutter):
    """Two of each subject, one with the detector and one with a box."""
    folders = sorted(path for path in Path(PHOTOGRAPHS).iterdir() if path.is_dir())
    assert len(folders) == 30
    for folder in folders:
        by_label, by_box = sorted(folder.glob("*.jpg"))[:2]
        for path, label, box in ((by_label, folder.name, None), (by_box, "thing", (0.1, 0.1, 0.9, 0.9))):
            mask, reason = mask_or_reason(cutter, read_photo(path), label.replace("_", " "), box)
            assert str(path) in reason if mask is None else mask.any()
