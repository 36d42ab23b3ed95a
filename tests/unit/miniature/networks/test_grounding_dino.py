from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from infra.precision import Precision
from labeling.backends.grounding_dino.huggingface import GroundingDinoHfDetector
from labeling.config import BoxRules, DetectConfig, Device
from labeling.rules import broken_box_rules
from labeling.sdd.schema import Box, Detection
from labeling.stages.networks import DetectedBox
from miniature.networks.grounding_dino import SIZES, build, save
from miniature.networks.vocabulary import detection_vocabulary

NOUNS = ["dog", "fire hydrant", "teapot", "rocket", "banana", "crown", "sailing ship", "clock"]
VOCABULARY = detection_vocabulary(NOUNS)


def picture(seed: int) -> NDArray[np.uint8]:
    rng = np.random.default_rng(seed)
    return np.kron(rng.integers(0, 256, (5, 6, 3)), np.ones((50, 40, 1))).astype(np.uint8)


def labels(seed: int) -> list[str]:
    rng = np.random.default_rng(seed)
    return [NOUNS[i] for i in rng.permutation(len(NOUNS))[: rng.integers(1, 6)]]


def detector(folder: Path, seed: int = 0, **settings: object) -> GroundingDinoHfDetector:
    save(build(VOCABULARY, seed), folder, VOCABULARY)
    return GroundingDinoHfDetector(
        DetectConfig.model_validate({"checkpoint": str(folder), "device": Device.CPU, **settings})
    )


def found_in(net: GroundingDinoHfDetector, count: int) -> list[list[DetectedBox]]:
    return net.detect([net.prepare(picture(i)) for i in range(count)], [labels(i) for i in range(count)])


def test_it_is_small() -> None:
    assert sum(parameter.numel() for parameter in build(VOCABULARY, 0).parameters()) < 3_000_000


def test_the_seed_decides_the_weights_and_leaves_the_callers_alone() -> None:
    torch.manual_seed(7)
    before = torch.rand(3)
    torch.manual_seed(7)
    one, same, other = (build(VOCABULARY, seed).state_dict() for seed in (1, 1, 2))
    assert all(torch.equal(one[name], same[name]) for name in one)
    assert not torch.equal(one["model.enc_output.weight"], other["model.enc_output.weight"])
    assert torch.equal(torch.rand(3), before)


def test_the_folder_loads_with_its_own_size_and_words(tmp_path: Path) -> None:
    prepared = detector(tmp_path).prepare(picture(0))
    assert prepared.pixels.shape == (3, SIZES.image_px, SIZES.image_px)
    assert (prepared.width_px, prepared.height_px) == (240, 250)


def test_random_weights_find_boxes_that_thresholds_and_rules_keep_and_drop(tmp_path: Path) -> None:
    """With the default thresholds and rules, on pictures that no seed has seen."""
    kept: list[bool] = []
    for seed in range(3):
        found = found_in(detector(tmp_path / str(seed), seed), 12)
        assert 1 < np.mean([len(boxes) for boxes in found]) < SIZES.queries - 1
        assert len({f.label_index for boxes in found for f in boxes}) > 2
        kept += [not rules for boxes in found for rules in broken_box_rules(detections(boxes), 240, 250, BoxRules())]
    assert 0.2 < np.mean(kept) < 0.95


def detections(found: list[DetectedBox]) -> list[Detection]:
    boxes = [Box(x0=f.box[0], y0=f.box[1], x1=f.box[2], y1=f.box[3]) for f in found]
    return [
        Detection(label=str(f.label_index), span_start=0, span_end=1, score=f.score, box=box)
        for f, box in zip(found, boxes, strict=True)
    ]


def test_pictures_and_nouns_matter(tmp_path: Path) -> None:
    net = detector(tmp_path, box_threshold=0.0, nms_iou=1.0)
    one, other = net.prepare(picture(1)), net.prepare(picture(2))
    in_one, in_other, of_others = net.detect([one, other, one], [["dog"], ["dog"], ["clock"]])
    assert np.abs(np.array([f.box for f in in_one]) - np.array([f.box for f in in_other])).max() > 5
    assert abs(in_one[0].score - of_others[0].score) > 0.01


def test_a_batch_gives_what_its_images_give_alone(tmp_path: Path) -> None:
    net = detector(tmp_path, box_threshold=0.1)
    for i, together in enumerate(found_in(net, 6)):
        (alone,) = net.detect([net.prepare(picture(i))], [labels(i)])
        assert [f.label_index for f in alone] == [f.label_index for f in together]
        assert [f.score for f in alone] == pytest.approx([f.score for f in together], abs=1e-4)
        boxes = np.array([f.box for f in alone]), np.array([f.box for f in together])
        assert np.abs(boxes[0] - boxes[1]).max(initial=0) < 1e-3


def test_sixty_nouns_fit(tmp_path: Path) -> None:
    """In prompts of 64 tokens; here every noun is a candidate of its own."""
    net = detector(tmp_path, box_threshold=0.0, nms_iou=1.0)
    (found,) = net.detect([net.prepare(picture(0))], [[f"{a} {b}" for a in NOUNS for b in NOUNS][:60]])
    assert len(found) == 4 * SIZES.queries
    assert max(f.label_index for f in found) >= 45


def test_bfloat16_runs_on_the_cpu(tmp_path: Path) -> None:
    net = detector(tmp_path, precision=Precision.BFLOAT16)
    assert any(found_in(net, 2))
