"""The miniature benchmark as the evaluation of a training job."""

import pickle
from pathlib import Path

import pytest
import torch

from flows.training_evaluation import evaluator_maker
from infra.config import SettingsError, load
from miniature.networks import base
from miniature.scoring.case_scores import Judges, load_judges
from miniature.scoring.score_options import SAMPLING, SubjectSet
from miniature.scoring.training_evaluator import SUBJECTS, MiniatureEvaluator
from model.subject_diffusion import SubjectDiffusion
from training.config import TrainingJob

WEIGHTS = Path(base.__file__).parents[1] / "weights"
QUICK = SAMPLING.model_copy(update={"steps": 2})


@pytest.fixture(scope="module")
def judges() -> Judges:
    return load_judges(WEIGHTS, SUBJECTS)


@pytest.fixture(scope="module")
def net() -> SubjectDiffusion:
    return SubjectDiffusion.from_pretrained(WEIGHTS / "subject_diffusion").eval().requires_grad_(False)


def test_checkpoints_are_not_chosen_on_the_subjects_of_the_reported_scores():
    assert SUBJECTS is not SubjectSet.HELD_OUT


def test_scores_of_a_case_do_not_depend_on_the_other_cases(judges: Judges, net: SubjectDiffusion):
    """Workers share the cases, so the sum over them must not depend on their number."""
    evaluator = MiniatureEvaluator(judges, QUICK, max_subjects=2)
    together = evaluator(net, range(4))
    apart = [*evaluator(net, [0, 1]), *evaluator(net, [2]), *evaluator(net, [3])]
    for whole, part in zip(together, apart, strict=True):
        assert part == pytest.approx(whole, abs=1e-3)
    assert len({scores["similarity"] for scores in together}) == 4


def test_a_job_in_bfloat16_is_scored_in_float32(judges: Judges, net: SubjectDiffusion):
    evaluator = MiniatureEvaluator(judges, QUICK, max_subjects=1)
    (exact,) = evaluator(net, [0])
    with torch.autocast("cpu", torch.bfloat16):
        (rounded,) = evaluator(net, [0])
    assert rounded == pytest.approx(exact, abs=0.1)
    assert rounded["similarity"] != float(torch.tensor(rounded["similarity"]).bfloat16()), "it has all its digits"


def test_a_model_of_one_subject_is_asked_for_one(judges: Judges):
    one, two = (MiniatureEvaluator(judges, QUICK, max_subjects=count) for count in (1, 2))
    assert two.case_count == 2 * one.case_count


@pytest.mark.usefixtures("net")
def test_the_demos_settings_find_the_benchmark(judges: Judges):
    job = load(TrainingJob, "demo", ["training.evaluation.benchmark=miniature"])
    make = evaluator_maker(job)
    assert make is not None
    evaluator = pickle.loads(pickle.dumps(make))(job, torch.device("cpu"))  # as Ray passes it to its workers
    assert job.training.evaluation.metric in evaluator.score_names
    assert evaluator_maker(load(TrainingJob, "demo")) is None


def test_an_unknown_benchmark_is_refused():
    with pytest.raises(SettingsError, match=r"benchmark='beauty': there is no such benchmark"):
        evaluator_maker(load(TrainingJob, "demo", ["training.evaluation.benchmark=beauty"]))
