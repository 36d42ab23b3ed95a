"""The demo: a small world over HTTP, small networks, the ordinary build, and a look at what it made."""

import logging
import shutil
from pathlib import Path

import typer

from flows.experiment import Experiment
from flows.sql import run
from flows.status import funnel_text
from infra.config import load
from labeling.build import HereCaller, build
from labeling.config import LabelingConfig
from labeling.picture import contact_sheet, shown
from labeling.sdd.query import connect
from miniature.score import score_build, score_stages, table
from miniature.serve import METADATA, TRUTH, WorldConfig, serving, write_world
from miniature.true_layers import read_truth

log = logging.getLogger(__name__)
QUERIES = {
    "The ten most frequent labels": "FROM labels LIMIT 10",
    "Rules of App. B.1 that candidates broke": "FROM broken_rules",
    "Boxes per image": "FROM boxes_per_image",
}


def demo(config: str, scenes: int, seed: int, world_config: WorldConfig) -> None:
    """Write the world if it is not there yet, build the dataset of `config`, show, score and draw it."""
    labeling = load(Experiment, config).labeling
    world = Path(labeling.urls or "").parent
    if (world / METADATA).exists():
        log.info("the scenes are those in %s; remove it to have others", world)
    else:
        log.info("composing %d scenes in %s", scenes, world)
        write_world(world, scenes, seed, world_config)
    with serving(world) as url:
        log.info("serving them at %s", url)
        build(labeling, HereCaller())
    show(labeling.root)
    score(labeling, world)
    draw(labeling.root)


def show(root: str) -> None:
    """The funnel and a few queries."""
    typer.echo(f"\nWhat became of each URL\n{funnel_text(root)}")
    session = connect(root)
    for title, sql in QUERIES.items():
        typer.echo(f'\n{title}:  subject-diffusion inspect {root} "{sql}"')
        run(session, sql)


def score(labeling: LabelingConfig, world: Path) -> None:
    """The labels against what is true of the scenes: as built, and each stage from its true input."""
    scoring, truth = Path(labeling.root).parent / "scoring", read_truth(world / TRUTH)
    shutil.rmtree(scoring, ignore_errors=True)
    figures = [*score_build(labeling, truth), *score_stages(labeling, truth, scoring)]
    typer.echo(f"\nHow right the labels are (python -m miniature.score --help says what counts)\n{table(figures)}")


def draw(root: str) -> None:
    """A picture of labelled scenes beside the dataset."""
    file = Path(root).parent / "labelled.png"
    contact_sheet(shown(root, 12)).save(file)
    typer.echo(f"\nLabelled scenes:  {file}")
