"""The experiments on the pipeline's controls, on two subjects with one denoising step."""

from itertools import islice
from pathlib import Path

import pytest

from miniature.networks.judge import load_embedder, load_judge
from miniature.scoring.cases import cases
from miniature.scoring.controls_score import (
    TABLE,
    Setup,
    _score_interpolations,
    _score_into_photos,
    _score_strengths,
    _with_photos,
)
from miniature.scoring.score_options import SubjectSet
from miniature.scoring.subject_score import subject_embeddings
from model.pipeline import SubjectDiffusionPipeline

WEIGHTS = Path("miniature/weights")


@pytest.fixture(scope="module")
def setup() -> Setup:
    pipeline = SubjectDiffusionPipeline.from_pretrained(WEIGHTS / "subject_diffusion", num_inference_steps=1)
    pipeline.set_progress_bar_config(disable=True)
    embedder = load_embedder(WEIGHTS / "embedder")
    looks = subject_embeddings(embedder, SubjectSet.HELD_OUT)
    return Setup(pipeline, load_judge(WEIGHTS / "judge"), embedder, looks, list(islice(cases(1), 2)))


def test_each_strength_and_alpha_is_a_setting(setup):
    figures = list(_score_strengths(setup))
    assert [one.of["setting"] for one in figures if one.name == "similarity"] == ["0.0", "0.25", "0.5", "1.0", "1.5"]
    assert len({one.value for one in figures if one.name == "similarity"}) == 5
    assert all(one.count == 2 for one in figures)
    assert "strength" in TABLE.text(figures)
    ends = {one.of["setting"]: one.value for one in _score_interpolations(setup) if one.name == "similarity"}
    assert ends["0.0"] != ends["1.0"]


def test_a_photo_is_kept_outside_its_region(setup):
    recall, kept = _score_into_photos(setup)
    assert (recall.name, recall.count) == ("R@1", 2)
    assert (kept.name, kept.value) == ("photo kept", 1.0)


def test_further_photos_show_the_subject_in_other_poses(setup):
    photos = _with_photos(setup.cases[0].subjects[0], 3).photos
    assert len(photos) == 3
    assert len({photo.outline.tobytes() for photo in photos}) == 3
