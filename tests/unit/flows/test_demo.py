"""The settings of the demo and of what extends it."""

import pytest

from flows.demo import DemoExperiment, demo, with_taught_subjects
from flows.generation.generator import DEFAULT_MODEL
from infra.config import SettingsError, load
from miniature.training.pictures import SCENES
from miniature.world.names import labelled_names
from model.config import ModelConfig
from model.subject_diffusion import SubjectDiffusion
from training.config import TrainingJob
from training.network import load_initial_network, load_network


@pytest.mark.parametrize("name", ["demo", "score", "miniature", "miniature_exact"])
def test_all_its_tables_fit_together(name):
    experiment = load(DemoExperiment, name)
    job = load(TrainingJob, name)
    assert (job.model, job.training) == (experiment.model, experiment.training)
    assert experiment.labeling.urls.startswith(experiment.labeling.root.removesuffix("sdd"))


@pytest.mark.parametrize("name", ["demo", "score", "miniature", "miniature_exact"])
def test_training_reads_the_dataset_that_is_built(name):
    experiment = load(DemoExperiment, name)
    assert experiment.training.data.dataset == experiment.labeling.root


def test_training_on_another_dataset_than_is_built_is_refused(tmp_path):
    elsewhere = load(DemoExperiment, "demo", [f"labeling.root={tmp_path}/sdd"])
    with pytest.raises(SettingsError, match=r"the demo builds .*, but training\.data\.dataset='out/demo/sdd'"):
        demo(elsewhere, scenes=4, seed=0, labels_only=False)


def test_the_world_shows_what_the_networks_were_taught_unless_it_names_subjects():
    world = load(DemoExperiment, "miniature").world
    assert with_taught_subjects(world).scenes.names == labelled_names()
    named = world.model_copy(update={"scenes": world.scenes.model_copy(update={"names": ("fox",)})})
    assert with_taught_subjects(named).scenes.names == ("fox",)


def test_the_small_model_is_trained_on_scenes_like_those_of_its_base():
    scenes = load(DemoExperiment, "miniature").world.scenes
    assert (scenes.subjects, scenes.box_share, scenes.backgrounds) == (
        SCENES.subjects,
        SCENES.box_share,
        SCENES.backgrounds,
    )


def test_the_exact_one_departs_from_the_paper_in_nothing():
    exact, small = (load(DemoExperiment, name) for name in ("miniature_exact", "miniature"))
    assert exact.model.departures == ModelConfig().departures
    assert exact.model.model_copy(update={"departures": small.model.departures}) == small.model


def test_the_scored_world_has_no_refused_rows_and_some_held_out_subjects():
    world = load(DemoExperiment, "score").world
    assert world.low_share == 0
    assert world.held_out_share > 0.1


def test_the_demos_training_starts_between_the_base_and_the_committed_model():
    job = load(TrainingJob, "demo")
    start = dict(load_initial_network(job).named_parameters())
    base = dict(load_network(job.model, job.training.data).named_parameters())
    committed = dict(SubjectDiffusion.from_pretrained(DEFAULT_MODEL).named_parameters())
    name = "unet.base.conv_out.weight"
    way = (start[name] - base[name]).norm() / (committed[name] - base[name]).norm()
    assert way.item() == pytest.approx(0.667, abs=1e-3)
