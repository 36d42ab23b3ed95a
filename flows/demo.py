"""The demo: a small world over HTTP, small networks, the ordinary build and training, and a look at what they made."""

import logging
import shutil
from pathlib import Path

import typer
from PIL import Image

from flows.experiment import DemoExperiment
from flows.sql import run
from flows.status import funnel_text
from infra.config import SettingsError
from labeling.build import LocalCaller, build
from labeling.config import LabelingConfig
from labeling.sdd.picture import contact_sheet, read_sheet_rows
from labeling.sdd.query import connect
from miniature.scoring.cases import cases
from miniature.scoring.exam import SAMPLING
from miniature.scoring.label_score import TABLE, score_labels
from miniature.scoring.subject_score import generate, sheet
from miniature.scoring.true_layers import read_truth
from miniature.world.names import labelled_names
from miniature.world.serve import METADATA, TRUTH, WorldConfig, serving, write_world
from model.subject_diffusion import SubjectDiffusion
from training.checkpoints.store import LATEST, Checkpoints
from training.config import TrainingJob
from training.export import export
from training.job import run as train
from training.monitoring.metrics import read_metrics
from training.parallel import Worker

log = logging.getLogger(__name__)
QUERIES = {
    "The ten most frequent labels": "FROM labels LIMIT 10",
    "Rules of App. B.1 that candidates broke": "FROM broken_rules",
    "Boxes per image": "FROM boxes_per_image",
}
_SAMPLES = 20


def demo(experiment: DemoExperiment, scenes: int, seed: int, labels_only: bool) -> None:
    """Write the world if it is not there yet, build its dataset, show, score and draw it; then train on it.

    Raises:
        SettingsError: training would be on another dataset than the one that is built.
    """
    labeling, trained_on = experiment.labeling, experiment.training.data.dataset
    if not labels_only and trained_on != labeling.root:
        raise SettingsError(
            f"labeling.root={labeling.root!r} is built, but training.data.dataset={trained_on!r} would be trained on: "
            "set both alike and training.out beside them, or leave the training out with --labels-only"
        )
    world = Path(labeling.urls or "").parent
    if (world / METADATA).exists():
        log.info("the scenes are those in %s; remove it to have others", world)
    else:
        log.info("composing %d scenes in %s", scenes, world)
        write_world(world, scenes, seed, taught(experiment.world))
    with serving(world) as url:
        log.info("serving them at %s", url)
        build(labeling, LocalCaller())
    show(labeling.root)
    score(labeling, world, experiment.world.untaught_scenes)
    draw(labeling.root)
    if not labels_only:
        learn(TrainingJob(model=experiment.model, training=experiment.training))


def taught(world: WorldConfig) -> WorldConfig:
    """`world`, its subjects those that the labelling networks were taught unless it names some."""
    named = world.scenes.names or labelled_names()
    return world.model_copy(update={"scenes": world.scenes.model_copy(update={"names": named})})


def show(root: str) -> None:
    """The funnel and a few queries."""
    typer.echo(f"\nWhat became of each URL\n{funnel_text(root)}")
    session = connect(root)
    for title, sql in QUERIES.items():
        typer.echo(f'\n{title}:  subject-diffusion inspect {root} "{sql}"')
        run(session, sql)


def score(labeling: LabelingConfig, world: Path, untaught_scenes: int) -> None:
    """The labels against what is true of the scenes: as built, and each stage from its true input; and the masks of
    held-out subjects in `untaught_scenes` scenes on untaught backgrounds."""
    scoring, truth = Path(labeling.root).parent / "scoring", read_truth(world / TRUTH)
    shutil.rmtree(scoring, ignore_errors=True)
    figures = score_labels(labeling, truth, scoring, untaught_scenes)
    help_command = "subject-diffusion score labels --help"
    typer.echo(f"\nThe labels against the truth ({help_command} says what counts)\n{TABLE.text(figures)}")


def draw(root: str) -> None:
    """A picture of labelled scenes beside the dataset."""
    file = Path(root).parent / "labelled.png"
    contact_sheet(read_sheet_rows(root, 12)).save(file)
    typer.echo(f"\nLabelled scenes:  {file}")


def learn(job: TrainingJob) -> None:
    """Train, or go on with it, and draw what the model makes of subjects that it has not seen."""
    out = Path(job.training.out)
    checkpoints = Checkpoints(out, job.training.keep, Worker())
    train(job, LATEST if checkpoints.latest() else None, here=True)
    metrics = read_metrics(out)
    typer.echo(f"\nLoss: {metrics[0]['loss']:.3f} at step {metrics[0]['step']}, {metrics[-1]['loss']:.3f} at the end")
    model, pictures = out.parent / "model", out.parent / "samples.png"
    shutil.rmtree(model, ignore_errors=True)
    last = checkpoints.latest()
    assert last is not None
    export(last, model)
    net = SubjectDiffusion.from_pretrained(model).eval().requires_grad_(False)
    asked = list(cases(1))[:_SAMPLES]
    Image.fromarray(sheet(generate(net, asked, SAMPLING), asked)).save(pictures)
    typer.echo(f"The model:  {model}\nSubjects it never saw, and below each a picture of it:  {pictures}")
