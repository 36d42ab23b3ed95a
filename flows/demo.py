"""The demo: serve a small world over HTTP, label it with small networks, score the labels, train on them, draw."""

import logging
import shutil
from collections.abc import Mapping, Sequence
from itertools import islice
from pathlib import Path

import numpy as np
import typer
from PIL import Image

from flows.experiment import DemoExperiment
from flows.generation.generator import DEFAULT_MODEL
from flows.sql import run
from flows.status import funnel_text
from flows.training_evaluation import evaluator_maker
from infra.config import SettingsError
from labeling.build import LocalTaskRunner, build
from labeling.config import LabelingConfig
from labeling.sdd.picture import contact_sheet, read_sheet_rows
from labeling.sdd.query import connect
from miniature.scoring.cases import TargetSubject, cases
from miniature.scoring.label_score import TABLE, score_labels
from miniature.scoring.score_options import SAMPLING, PlaceHint
from miniature.scoring.subject_score import generate
from miniature.scoring.true_layers import read_truth
from miniature.world.names import labelled_names
from miniature.world.serve import METADATA, TRUTH, WorldConfig, world_server, write_world
from model.inputs.reference import Subject
from model.pipeline import SubjectDiffusionOutput, SubjectDiffusionPipeline
from model.sampling.denoising import seeded_generators
from model.subject_diffusion import SubjectDiffusion
from training.checkpoints.store import LATEST, Checkpoints
from training.config import TrainingJob
from training.distributed.parallel import Worker
from training.export import export
from training.job import run as train
from training.monitoring.grid import Line, draw_grid
from training.monitoring.metrics import read_metrics
from training.network import load_initial_network

log = logging.getLogger(__name__)
QUERIES = {
    "The ten most frequent labels": "FROM labels LIMIT 10",
    "Rules of App. B.1 that candidates broke": "FROM broken_rules",
    "Boxes per image": "FROM boxes_per_image",
}
_SUBJECTS = 8
"""Subjects in the pictures of the trained and of the committed model."""
_PLACES = ("in the snow", "on the grass", "by the wall")
_CELL_PX = 128
"""Side of an image in those pictures; the model's images have 64 px."""


def demo(experiment: DemoExperiment, scenes: int, seed: int, labels_only: bool) -> None:
    """Write the world if it is missing, build its dataset, print, score and draw it; then train on it.

    Raises:
        SettingsError: `training.data.dataset` is not the dataset that the demo builds.
    """
    labeling, trained_on = experiment.labeling, experiment.training.data.dataset
    if not labels_only and trained_on != labeling.root:
        raise SettingsError(
            f"the demo builds labeling.root={labeling.root!r}, but training.data.dataset={trained_on!r}: set both to "
            "the same folder and training.out to one beside it, or stop before the training with --labels-only"
        )
    world = Path(next(iter(labeling.lists), "")).parent
    if (world / METADATA).exists():
        log.info("using the scenes in %s; remove the folder to compose others", world)
    else:
        log.info("composing %d scenes in %s", scenes, world)
        write_world(world, scenes, seed, with_taught_subjects(experiment.world))
    with world_server(world) as url:
        log.info("serving them at %s", url)
        build(labeling, LocalTaskRunner())
    print_summary(labeling.root)
    score(labeling, world, experiment.world.untaught_scenes)
    draw_labels(labeling.root)
    if not labels_only:
        train_and_sample(TrainingJob(model=experiment.model, training=experiment.training))
        draw_committed_model(Path(labeling.root).parent / "generated.png")


def with_taught_subjects(world: WorldConfig) -> WorldConfig:
    """Return `world`; if it names no subjects, add those that the labelling networks were trained on."""
    named = world.scenes.names or labelled_names()
    return world.model_copy(update={"scenes": world.scenes.model_copy(update={"names": named})})


def print_summary(root: str) -> None:
    """Print the funnel and the results of a few queries."""
    typer.echo(f"\nURLs by verdict\n{funnel_text(root)}")
    session = connect(root)
    for title, sql in QUERIES.items():
        typer.echo(f'\n{title}:  subject-diffusion inspect {root} "{sql}"')
        run(session, sql)


def score(labeling: LabelingConfig, world: Path, untaught_scenes: int) -> None:
    """Print the score of the labels: of the build, of each stage on its true input, and on untaught backgrounds."""
    scoring, truth = Path(labeling.root).parent / "scoring", read_truth(world / TRUTH)
    shutil.rmtree(scoring, ignore_errors=True)
    figures = score_labels(labeling, truth, scoring, untaught_scenes)
    help_command = "subject-diffusion score labels --help"
    typer.echo(f"\nLabels against the truth (criteria: {help_command})\n{TABLE.text(figures)}")


def draw_labels(root: str) -> None:
    """Write a picture of labelled scenes beside the dataset."""
    file = Path(root).parent / "labelled.png"
    contact_sheet(read_sheet_rows(root, 12)).save(file)
    typer.echo(f"\nLabelled scenes:  {file}")


def train_and_sample(job: TrainingJob) -> None:
    """Start or resume training, export the model, and draw subjects that no network has seen, before and after it."""
    out = Path(job.training.out)
    checkpoints = Checkpoints(out, job.training.keep, Worker())
    train(job, LATEST if checkpoints.latest() else None, local=True, make_evaluator=evaluator_maker(job))
    metrics = read_metrics(out)
    typer.echo(f"\nLoss: {metrics[0]['loss']:.3f} at step {metrics[0]['step']}, {metrics[-1]['loss']:.3f} at the end")
    model, pictures = out.parent / "model", out.parent / "samples.png"
    shutil.rmtree(model, ignore_errors=True)
    last = checkpoints.latest()
    assert last is not None
    export(last, model)
    steps = metrics[-1]["step"]
    nets = {"before": load_initial_network(job), f"after {steps} steps": SubjectDiffusion.from_pretrained(model)}
    draw_unseen_subjects(nets).save(pictures)
    typer.echo(
        f"The model of these {steps} steps:  {model}\n"
        f"Images of unseen subjects, given a box each, before and after the training:  {pictures}"
    )


def draw_unseen_subjects(nets: Mapping[str, SubjectDiffusion]) -> Image.Image:
    """Draw unseen subjects in boxes by several networks, from the same noise.

    Args:
        nets: the networks, by the headings of their columns.
    """
    requests = list(islice(cases(1), _SUBJECTS))
    columns = [
        generate(net.eval().requires_grad_(False), requests, SAMPLING, given=PlaceHint.BOX) for net in nets.values()
    ]
    lines = [
        _line(case.subjects[0], case.prompt, [Image.fromarray(image) for image in images])
        for case, *images in zip(requests, *columns, strict=True)
    ]
    return draw_grid(list(nets), lines)


def draw_committed_model(file: Path) -> None:
    """Draw unseen subjects in new scenes by the committed model, from their cut-outs and the prompts alone."""
    pipeline = SubjectDiffusionPipeline.from_pretrained(DEFAULT_MODEL)
    pipeline.set_progress_bar_config(disable=True)
    subjects = [case.subjects[0] for case in islice(cases(1), _SUBJECTS)]
    lines = [_draw_line(pipeline, subject, seed) for seed, subject in enumerate(subjects)]
    draw_grid(_PLACES, lines).save(file)
    typer.echo(f"\nThe committed model, trained for three hours: unseen subjects in new scenes:  {file}")


def _draw_line(pipeline: SubjectDiffusionPipeline, subject: TargetSubject, seed: int) -> Line:
    """Draw a subject at each place, all from the same noise."""
    result = pipeline(
        [f"{_with_article(subject.label)} {place}" for place in _PLACES],
        [Subject(subject.image, subject.label, subject.mask)],
        generator=seeded_generators([seed] * len(_PLACES)),
    )
    assert isinstance(result, SubjectDiffusionOutput)
    assert isinstance(result.images, list)
    return _line(subject, "", result.images)


def _line(subject: TargetSubject, caption: str, images: Sequence[Image.Image]) -> Line:
    cells = [image.resize((_CELL_PX, _CELL_PX), Image.Resampling.BICUBIC) for image in images]
    reference = np.where(subject.mask[..., None], subject.image, np.uint8(255))
    return Line(reference[None], [subject.label], caption, cells)


def _with_article(label: str) -> str:
    return f"{'an' if label[0] in 'aeiou' else 'a'} {label}"
