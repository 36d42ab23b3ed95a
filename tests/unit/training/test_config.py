"""Settings of a job: the paper's, and those that do not fit each other."""

import pytest

from infra.config import CONFIGS, SettingsError, load
from training.config import TrainingConfig, TrainingJob

GIVEN = ["training.out=out/run", "training.data.dataset=out/sdd"]


@pytest.mark.parametrize("name", ["paper", "official", "openimages"])
def test_the_papers_run(name):
    """App. A: 24 GPUs with 12 images each, 300,000 steps, 3e-5, lambda 0.01."""
    job = load(TrainingJob, name)
    training = job.training
    assert (training.workers, training.data.batch_size, training.steps) == (24, 12, 300_000)
    assert (training.optimizer.learning_rate, job.model.lambda_attn) == (3e-5, 0.01)
    assert training.gpu


def test_the_released_code_has_no_mean_and_no_clipping():
    training = load(TrainingJob, "official").training
    assert (training.ema_decay, training.optimizer.clip_norm) == (0, 0)


@pytest.mark.parametrize("path", sorted((CONFIGS / "ablations").glob("*.toml")), ids=lambda path: path.stem)
def test_an_ablation_is_the_papers_run_but_for_a_switch(path):
    training, papers = load(TrainingJob, path).training, load(TrainingJob, "paper").training
    assert training == papers.model_copy(update={"out": f"out/ablations/{path.stem[0]}"})


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        (["training.data.max_subjects=9"], "training.data.max_subjects=9 is more than model.max_subjects=4"),
        (["training.precision=float32"], 'needs model.frozen_precision="float32"'),
        (["training.learning_rate=1e-5"], "learning_rate: unknown setting"),
        (["training.steps=0"], "training.steps"),
    ],
)
def test_what_cannot_be_is_refused_in_words(settings, said):
    with pytest.raises(SettingsError, match=said):
        load(TrainingJob, None, [*GIVEN, *settings])


def test_a_job_needs_data_and_a_folder():
    with pytest.raises(SettingsError, match=r"training\.data"):
        load(TrainingJob, None, ["training.out=out/run"])


def test_every_setting_says_what_it_is():
    fields = {**TrainingConfig.model_fields, **TrainingJob.model_fields}
    undocumented = {name for name, field in fields.items() if not field.description}
    assert undocumented <= {"data", "optimizer", "strategy", "model", "training"}
