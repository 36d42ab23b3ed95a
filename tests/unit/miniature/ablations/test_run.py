"""The rows of Table 3 run, stop and resume."""

import shutil
from dataclasses import replace
from itertools import islice
from pathlib import Path

import pytest

from flows.experiment import DemoExperiment
from infra.config import load
from miniature.ablations.results import read_result, result_path
from miniature.ablations.rows import RowName
from miniature.ablations.run import Settings, fingerprint, row_job, run
from miniature.errors import AblationError
from miniature.networks import base
from miniature.scoring.case_scores import Judges, load_judges
from miniature.scoring.score_options import SAMPLING
from training.checkpoints.store import Checkpoints
from training.config import TrainingJob
from training.distributed.parallel import Worker

WEIGHTS = Path(base.__file__).parents[1] / "weights"


@pytest.fixture
def settings() -> Settings:
    """A dataset of 40 scenes, two steps, and scores of two cases."""
    overrides = ["training.steps=2", "training.checkpoint_every=1", "training.data.batch_size=4", "world.port=0"]
    experiment = load(DemoExperiment, "miniature_ablations", overrides)
    job = TrainingJob(model=experiment.model, training=experiment.training)
    quick = SAMPLING.model_copy(update={"steps": 2})
    return Settings(experiment.labeling, experiment.world, job, scenes=40, sampling=quick, cases=2)


def test_rows_differ_from_the_full_one_in_one_setting(settings: Settings):
    full = row_job(settings.job, RowName.FULL, 0, Path("out"), "data")
    without = row_job(settings.job, RowName.NO_ADAPTER, 0, Path("out"), "data")
    assert full.model == settings.job.model
    assert without.training == full.training
    assert without.model == full.model.model_copy(update={"use_adapter": False})
    assert row_job(settings.job, RowName.FULL, 1, Path("out"), "data").training.seed == 1


def test_the_fingerprint_changes_with_what_a_result_depends_on(settings: Settings):
    one = fingerprint(settings, RowName.FULL, 0)
    others = [
        fingerprint(settings, RowName.NO_ADAPTER, 0),
        fingerprint(settings, RowName.FEW_CLASSES, 0),
        fingerprint(settings, RowName.FULL, 1),
        fingerprint(replace(settings, scenes=41), RowName.FULL, 0),
        fingerprint(replace(settings, cases=3), RowName.FULL, 0),
        fingerprint(replace(settings, sampling=SAMPLING), RowName.FULL, 0),
    ]
    assert len({one, *others}) == 1 + len(others)
    elsewhere = settings.job.training.model_copy(update={"out": "elsewhere", "log_every": 7})
    moved = replace(settings, job=settings.job.model_copy(update={"training": elsewhere}))
    assert fingerprint(moved, RowName.FULL, 0) == one


@pytest.fixture(scope="module")
def judges() -> Judges:
    return load_judges(WEIGHTS)


@pytest.mark.slow
def test_finished_rows_are_skipped_and_a_stopped_training_resumes(settings: Settings, judges: Judges, tmp_path: Path):
    rows, results = [RowName.FULL, RowName.NO_ADAPTER], tmp_path / "results"
    first = next(run(settings, judges, rows, [0], tmp_path, results))
    assert (first.row, first.steps, len(first.scores["2"]["similarity"])) == ("a", 2, 2)
    assert 0 < first.images < 40
    assert read_result(result_path(results, RowName.NO_ADAPTER, 0)) is None

    training = tmp_path / "a-seed0" / "training"
    shutil.rmtree(Checkpoints(training, 1, Worker()).all()[-1])  # as after a kill between the two checkpoints
    result_path(results, RowName.FULL, 0).unlink()
    again = next(run(settings, judges, rows, [0], tmp_path, results))
    assert again.scores == first.scores, "the training that stopped ends with the same weights"

    shutil.rmtree(tmp_path / "a-seed0")
    found = list(islice(run(settings, judges, rows, [0], tmp_path, results), 2))
    assert [result.row for result in found] == ["a", "e"]
    assert not training.exists(), "the finished row was not trained again"

    with pytest.raises(AblationError, match=r"a-seed0\.json is of other settings"):
        next(run(replace(settings, cases=1), judges, rows, [0], tmp_path, results))
