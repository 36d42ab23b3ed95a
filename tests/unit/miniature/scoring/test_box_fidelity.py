"""Box fidelity tells pictures whose subject fills its box from others."""

from itertools import islice
from pathlib import Path

import numpy as np
import pytest

from miniature.networks import base
from miniature.scoring.box_fidelity import box_ious, load_sam
from miniature.scoring.cases import Case, cases

COUNT = 6
WEIGHTS = Path(base.__file__).parents[1] / "weights"


@pytest.fixture(scope="module")
def asked() -> list[Case]:
    return list(islice(cases(1), COUNT))


def mean_iou(pictures: list[np.ndarray], asked: list[Case]) -> float:
    return float(np.mean(box_ious(load_sam(WEIGHTS / "sam"), pictures, asked)))


def test_the_scenes_themselves_fill_the_boxes_and_others_do_not(asked: list[Case]):
    scenes = [case.picture.image for case in asked]
    real = mean_iou(scenes, asked)
    moved = mean_iou([np.roll(scene, 8, axis=1) for scene in scenes], asked)
    others = mean_iou([*scenes[1:], scenes[0]], asked)
    assert real > 0.9
    assert moved < real - 0.2
    assert others < moved


def test_each_subject_has_a_value(asked: list[Case]):
    pairs = list(islice(cases(2), 1))
    ((first, second),) = box_ious(load_sam(WEIGHTS / "sam"), [pairs[0].picture.image], pairs)
    assert min(first, second) > 0.5
