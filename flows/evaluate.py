"""`subject-diffusion evaluate`: scores of a model or of any folder of images, beside those of publications."""

import json
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from tqdm import tqdm

from flows.exit_codes import exit_on_expected_error
from flows.generation import options
from flows.generation.machine import Machine
from flows.options import SetOption
from infra.config import load
from infra.logs import setup_logs

if TYPE_CHECKING:
    from evaluation.config import EvaluationConfig
    from flows.evaluation.session import Session

app = typer.Typer(
    help="Score a model, or any folder of images, on a benchmark.",
    invoke_without_command=True,
    rich_markup_mode="markdown",
)
_DEFAULT_MODEL_NAME = "small model"


@app.callback()
def evaluate(
    context: typer.Context,
    config: Annotated[
        str, typer.Option("--config", help="Settings: a TOML file, or a name in infra/configs.")
    ] = "dreambench",
    set_: SetOption = None,
    references: Annotated[
        Path | None,
        typer.Option(
            metavar="FOLDER",
            help="Photos of the subjects, as backpack/00.jpg.  [default: the benchmark's folder, or SD_DREAMBENCH_DIR]",
        ),
    ] = None,
    images: Annotated[
        Path | None,
        typer.Option(metavar="FOLDER", help="Images to score, as cat2/03/0.png.  [default: the model makes them]"),
    ] = None,
    method: Annotated[
        str | None, typer.Option(help="Name of what made the images.  [default: the folder's or model's name]")
    ] = None,
    model: options.Model = None,
    dino: Annotated[
        str | None, typer.Option(metavar="PATH", help="Weights of DINO ViT-S/16: evaluation.encoders.dino_vits16.")
    ] = None,
    clip: Annotated[
        str | None, typer.Option(metavar="PATH", help="Weights of CLIP ViT-B/32: evaluation.encoders.clip_vitb32.")
    ] = None,
    imitate: Annotated[
        list[str] | None,
        typer.Option(
            metavar="uno|kosmos-g|mip|…",
            help="Published evaluator, with its quirks, in a table beside ours; repeatable.",
        ),
    ] = None,
    allow_missing: Annotated[
        bool, typer.Option("--allow-missing", help="Leave out missing and unreadable images, and show how many.")
    ] = False,
    self_test: Annotated[
        bool, typer.Option("--self-test", help="Score the photos themselves, which must give the published values.")
    ] = False,
    cutout: options.Cutout = "demo",
    detect: Annotated[
        bool, typer.Option("--detect", help="Find the subjects by the detector of --cutout: box fidelity and pose.")
    ] = False,
    executor: Annotated[
        options.Executor, typer.Option(help="Where images are made and embedded.")
    ] = options.Executor.LOCAL,
    workers: options.Workers = None,
    device: options.Device = None,
    dtype: options.Precision = None,
    batch: options.BatchSize = 4,
    cache: Annotated[Path, typer.Option(metavar="FOLDER", help="Cache of embeddings.")] = Path("out/embeddings"),
    out: Annotated[Path, typer.Option(metavar="FOLDER", help="Folder of images, scores and reports.")] = Path(
        "out/evaluation"
    ),
) -> None:
    """Score a model, or any folder of images, on a benchmark.

    `subject-diffusion evaluate --config dreambench --images FOLDER --references PHOTOS`

    Writes report.html, report.md and the scores of each image. An interrupted run resumes: images and embeddings that
    exist are not made again.
    """
    if context.invoked_subcommand is not None:
        return
    setup_logs(logging.WARNING)  # before the libraries that it silences are imported
    machine = Machine(model, device, dtype, batch, executor, workers, out, False, cutout)
    with exit_on_expected_error():
        settings = _settings(config, [*(set_ or ()), *_overrides(dino, clip, allow_missing)])
        with _session(settings, imitate or [], references, machine, cache, detect) as session:
            if self_test:
                _test(session)
                return
            if images is None:
                reports = session.make_and_score(method or (model.name if model else _DEFAULT_MODEL_NAME))
            else:
                reports = session.score_folder(images, method or images.resolve().name)
    typer.echo(reports[0].read_text(encoding="utf-8").split("\n## Images")[0])
    for path in reports:
        typer.echo(path)


@app.command()
def compare(
    folders: Annotated[list[Path], typer.Argument(help="Folders of evaluations: two or more.")],
    out: Annotated[Path, typer.Option(metavar="FOLDER", help="Folder of the report.")] = Path("out/comparison"),
) -> None:
    """Compare evaluations of the same benchmark by the same protocols, with paired tests over subjects."""
    from evaluation.report.comparison import comparison_report
    from evaluation.report.report import write_report
    from evaluation.results import find_evaluations

    if len(folders) < 2:
        raise typer.BadParameter("give two or more folders")
    with exit_on_expected_error():
        reports = write_report(comparison_report([find_evaluations(folder) for folder in folders]), out)
    typer.echo(reports[0].read_text(encoding="utf-8").split("\n## Images")[0])
    for path in reports:
        typer.echo(path)


def _settings(config: str, overrides: list[str]) -> "EvaluationConfig":
    from flows.experiment import EvaluationExperiment

    return load(EvaluationExperiment, config, overrides).evaluation


def _overrides(dino: str | None, clip: str | None, allow_missing: bool) -> Iterator[str]:
    if dino is not None:
        yield f"evaluation.encoders.dino_vits16={_quoted(dino)}"
    if clip is not None:
        yield f"evaluation.encoders.clip_vitb32={_quoted(clip)}"
    if allow_missing:
        yield "evaluation.allow_missing=true"


def _quoted(path: str) -> str:
    return json.dumps(path)  # as a TOML string


@contextmanager
def _session(
    settings: "EvaluationConfig",
    imitated: list[str],
    references: Path | None,
    machine: Machine,
    cache: Path,
    detect: bool,
) -> "Iterator[Session]":
    from flows.cutout_networks import load_cutter
    from flows.evaluation.detector import CutterDetector
    from flows.evaluation.session import Session, Terminal
    from flows.generation.cutouts import SubjectCutter

    with _bar("images") as making, _bar("files") as embedding:
        networks = load_cutter(machine.cutout)
        cutter = SubjectCutter(networks, machine.out / "cutouts", _say)
        detector = CutterDetector(networks) if detect else None
        terminal = Terminal(_say, partial(_show, making), partial(_show, embedding))
        yield Session(settings, imitated, references, machine, cache, cutter, detector, terminal)


def _test(session: "Session") -> None:
    """Print what the encoders find on the photos; exit with code 1 if one is off."""
    failed = False
    for result in session.self_test():
        typer.echo(result.line)
        failed |= result.passed is False
    if failed:
        raise typer.Exit(1)


@contextmanager
def _bar(unit: str) -> "Iterator[tqdm[Any]]":
    with tqdm(unit=unit, disable=None, leave=False) as bar:  # shown on a terminal only
        yield bar


def _show(bar: "tqdm[Any]", done: int, total: int) -> None:
    bar.total = total
    bar.update(done - bar.n)


def _say(text: str) -> None:
    with tqdm.external_write_mode():
        typer.echo(text, err=True)
