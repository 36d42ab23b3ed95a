"""The distance between sets of pictures: by hand, of equal distributions, and of a model's pictures."""

from pathlib import Path

import numpy as np
import pytest
import torch

from miniature.networks import base
from miniature.networks.judge import Judge, load_judge
from miniature.scoring.distance_score import score
from miniature.scoring.score_options import SAMPLING, PlaceHint, SubjectSet
from miniature.scoring.set_distance import judge_features, kid, kid_figure
from model.subject_diffusion import SubjectDiffusion

WEIGHTS = Path(base.__file__).parents[1] / "weights"
QUICK = SAMPLING.model_copy(update={"steps": 1})


@pytest.fixture(scope="module")
def judge() -> Judge:
    return load_judge(WEIGHTS / "judge")


def test_the_distance_by_hand():
    # With D = 1 the kernel is (x y + 1)^3. Ours: k(0, 1) = 1. Theirs: k(1, 2) = 27. Across: 1, 1, 8, 27.
    ours, theirs = np.array([[0.0], [1.0]]), np.array([[1.0], [2.0]])
    assert kid(ours, theirs) == pytest.approx(1 + 27 - 2 * (1 + 1 + 8 + 27) / 4)


def test_samples_of_one_distribution_are_near_and_others_far():
    rng = np.random.default_rng(0)
    one, same, other = (rng.normal(mean, 1, (400, 8)) for mean in (0, 0, 1))
    near, far = kid_figure({}, one, same), kid_figure({}, one, other)
    assert near.low < 0 < near.high
    assert far.low > near.high
    assert far.low < far.value < far.high
    assert far.count == 400


def test_features_do_not_depend_on_batches(judge: Judge):
    pictures = list(np.random.default_rng(0).integers(0, 255, (70, 64, 64, 3), dtype=np.uint8))
    features = judge_features(judge, pictures)
    assert features.shape == (70, judge.trunk.width)
    np.testing.assert_allclose(features[65:], judge_features(judge, pictures[65:]), rtol=1e-4, atol=1e-5)


def test_scenes_are_nearer_to_scenes_than_pictures_of_one_step(judge: Judge):
    net = SubjectDiffusion.from_pretrained(WEIGHTS / "subject_diffusion").eval().requires_grad_(False)
    with torch.no_grad():
        real, generated = score(net, judge, SubjectSet.HELD_OUT, PlaceHint.BOX, QUICK, count=12)
    assert (real.of["pictures"], generated.of["pictures"], generated.of["given"]) == ("real", "generated", "box")
    assert generated.value > real.value
