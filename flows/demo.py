"""The demo: a small world over HTTP, small networks, the ordinary build, and a look at what it made."""

import logging
from pathlib import Path

import typer

from flows.experiment import Experiment
from flows.sql import run
from flows.status import funnel_text
from infra.config import load
from labeling.build import HereCaller, build
from labeling.sdd.query import connect
from miniature.serve import METADATA, serving, write_world
from miniature.untrained import write_networks

log = logging.getLogger(__name__)
SCENES = 300
SEED = 0
QUERIES = {
    "The ten most frequent labels": "FROM labels LIMIT 10",
    "Rules of App. B.1 that candidates broke": "FROM broken_rules",
    "Boxes per image": "FROM boxes_per_image",
}


def demo(config: str, scenes: int) -> None:
    """Write the world and the networks that are not there yet, build the dataset of `config`, show it."""
    labeling = load(Experiment, config).labeling
    world, networks = Path(labeling.urls or "").parent, Path(labeling.caption.checkpoint).parent
    if not (world / METADATA).exists():
        log.info("composing %d scenes in %s", scenes, world)
        write_world(world, scenes, SEED)
    if not networks.exists():
        log.info("writing small networks with random weights to %s", networks)
        write_networks(networks, SEED)
    with serving(world) as url:
        log.info("serving them at %s", url)
        build(labeling, HereCaller())
    show(labeling.root)


def show(root: str) -> None:
    """The funnel and a few queries."""
    typer.echo(f"\nWhat became of each URL\n{funnel_text(root)}")
    session = connect(root)
    for title, sql in QUERIES.items():
        typer.echo(f'\n{title}:  subject-diffusion inspect {root} "{sql}"')
        run(session, sql)
