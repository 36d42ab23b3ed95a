"""`subject-diffusion generate`: images from the command line, from a file of jobs, or once more from an image."""

import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer
from tqdm import tqdm

from flows.exit_codes import exit_on_expected_error
from flows.generation import options
from flows.generation.arguments import split_given, subject_fields
from flows.generation.errors import InvalidJob
from flows.generation.machine import Machine
from infra.logs import setup_logs
from infra.redaction import redact

if TYPE_CHECKING:
    from flows.generation.cutouts import SubjectCutter
    from flows.generation.job import GenerationJob
    from flows.generation.jobs import Failure, JobLine, Outcome, Task
    from flows.generation.session import Session

QUICK = {"scheduler": "DPMSolverMultistep", "steps": 20}
"""Settings of `--quick`; other options replace them."""


def generate(
    prompt: options.Prompt = None,
    subject: options.Subject = None,
    mask: options.Mask = None,
    box: options.Box = None,
    place: options.Place = None,
    strength: options.Strength = None,
    layout: options.Layout = None,
    cutout: options.Cutout = "demo",
    seed: options.Seed = None,
    steps: options.Steps = None,
    scheduler: options.Scheduler = None,
    quick: options.Quick = False,
    text_guidance: options.TextGuidance = None,
    image_guidance: options.ImageGuidance = None,
    guidance_rescale: options.GuidanceRescale = None,
    interpolation: options.Interpolation = None,
    negative: options.Negative = None,
    height: options.Height = None,
    width: options.Width = None,
    into: options.Into = None,
    region: options.Region = None,
    feather: options.Feather = None,
    n: options.Count = None,
    jobs: options.Jobs = None,
    executor: options.Where = options.Executor.LOCAL,
    workers: options.Workers = None,
    from_: options.From = None,
    model: options.Model = None,
    device: options.Device = None,
    dtype: options.Precision = None,
    batch: options.BatchSize = 4,
    out: options.Out = Path("out/images"),
    embed_subjects: options.Embed = False,
) -> None:
    """Generate images of subjects.

    `subject-diffusion generate --subject cat.png:cat --prompt "a cat on the beach"`

    Each PNG tells how it was made: `--from image.png --subject cat.png` makes it again. Images that exist are not
    made again. Exits with code 1 if some of `--jobs` failed; the others are made.
    """
    setup_logs(logging.WARNING)  # before the libraries that it silences are imported
    machine = Machine(model, device, dtype, batch, executor, workers, out, embed_subjects, cutout)
    sampling = _given(
        seed=seed,
        n=n,
        steps=steps,
        scheduler=scheduler,
        text_guidance=text_guidance,
        image_guidance=image_guidance,
        guidance_rescale=guidance_rescale,
        interpolation=interpolation,
        negative_prompt=negative,
        layout=layout,
        height=height,
        width=width,
    )
    settings = QUICK | sampling if quick else sampling
    photo = _given(image=into, region=region, feather_px=feather)
    subjects = {"subject": subject, "mask": mask, "box": box, "place": place, "strength": strength}
    with exit_on_expected_error():
        if from_:
            _refuse_with("--from", prompt=prompt, jobs=jobs, box=box, strength=strength, feather=feather, **settings)
            given = [*(subject or []), *(mask or []), *(place or [])]
            _repeat(from_, [*split_given(given), *filter(None, (into, region))], machine)
        elif jobs:
            _refuse_with("--jobs", prompt=prompt, into=into, region=region, feather=feather, **subjects)
            _run_file(jobs, settings, machine)
        else:
            fields = settings | _given(prompt=prompt, subjects=subject_fields(**subjects), photo=photo or None)
            _run_one(fields, machine)


def _given(**fields: object) -> dict[str, Any]:
    """Return the fields that the user gave; paths as text, as in JSON."""
    return {
        name: str(value) if isinstance(value, Path) else value for name, value in fields.items() if value is not None
    }


def _refuse_with(option: str, **others: object) -> None:
    """Refuse options that `option` makes meaningless."""
    if given := [name for name, value in others.items() if value is not None]:
        names = ", ".join(f"--{name.replace('_', '-')}" for name in given)
        raise InvalidJob(f"{option} brings its own settings: leave out {names}")


def _run_one(fields: dict[str, Any], machine: Machine) -> None:
    """Make the images of the command line's own job; exit with code 2 if that fails."""
    from flows.generation.job import parse_job
    from flows.generation.jobs import JobLine

    if "prompt" not in fields:
        raise InvalidJob('give --prompt "a cat on the beach" and --subject cat.png:cat, or --jobs, or --from')
    if "image" not in fields.get("photo", {"image": None}):
        raise InvalidJob("--region and --feather are of a photo: give the photo with --into")
    line = JobLine("", parse_job(fields, "the command line"), Path())
    if _run([line], [], machine).failures:
        raise typer.Exit(2)


def _run_file(jobs: Path, defaults: dict[str, Any], machine: Machine) -> None:
    """Make the images of a file of jobs; exit with code 1 if some fail."""
    from flows.generation.jobs import JobLine, read_lines

    read = list(read_lines(jobs, defaults))
    lines = [one for one in read if isinstance(one, JobLine)]
    session = _run(lines, [one for one in read if not isinstance(one, JobLine)], machine)
    failed = len({failure.source for failure in session.failures})
    typer.echo(f"{session.made} images made, {session.existing} existed, {failed} of {len(read)} jobs failed", err=True)
    if failed:
        raise typer.Exit(1)


def _run(lines: "Sequence[JobLine]", failures: "Sequence[Failure]", machine: Machine) -> "Session":
    """Make the images of jobs and draw their contact sheet."""
    from flows.generation.images import read_job
    from flows.generation.jobs import split_tasks
    from flows.generation.output import OutputFolder
    from flows.generation.session import Session, Terminal

    def read(line: "JobLine") -> "GenerationJob":
        return cutter.cut_subjects(read_job(line.job, line.folder))

    with _progress_bar(sum(line.job.n for line in lines)) as bar:
        session = Session(OutputFolder(machine.out), Terminal(_show_file, _say, _complain))
        cutter = _subject_cutter(machine)
        for failure in failures:
            session.fail(failure)
        chunks = split_tasks(lines, read, session.fail, machine.chunk_images)
        session.write(_outcomes(chunks, session, machine, bar))
    if sheet := session.draw_sheet(lines, read):
        _say(f"contact sheet: {sheet}")
    return session


def _outcomes(
    chunks: "Iterator[list[Task]]", session: "Session", machine: Machine, bar: "tqdm[Any]"
) -> "Iterator[Outcome]":
    """Run tasks in this process or on Ray, and move the bar."""

    def move(done: float) -> None:
        bar.update(session.made + session.existing + done - bar.n)

    yield from machine.run_chunks(chunks, session.known, move)


def _repeat(path: Path, files: Sequence[Path], machine: Machine) -> None:
    """Make the image of a file again; exit with code 1 if it differs."""
    from flows.generation.output import OutputFolder, file_name
    from flows.generation.png import encode_png
    from flows.generation.repeat import repeat_image

    output = OutputFolder(machine.out)
    made = repeat_image(path, files, _subject_cutter(machine).cut, machine.make_generator)
    provenance = made.image.provenance.embed(made.job) if machine.embed else made.image.provenance
    name = file_name(provenance)
    exists = name in output.names()
    _show_file(output.existing(name) if exists else output.write(name, encode_png(made.image.image, provenance)))
    for change in made.changes:
        _say(f"not as in {path}: {change}")
    if made.largest_difference:
        _say(f"The image differs from {path} by up to {made.largest_difference} of 255 grey levels.")
        raise typer.Exit(1)
    _say(f"The image is identical to {path}.")


def _subject_cutter(machine: Machine) -> "SubjectCutter":
    from flows.cutout_networks import load_cutter
    from flows.generation.cutouts import SubjectCutter

    return SubjectCutter(load_cutter(machine.cutout), machine.out / "cutouts", _say)


@contextmanager
def _progress_bar(images: int) -> "Iterator[tqdm[Any]]":
    form = "{l_bar}{bar}| {n:.1f} of {total} images [{elapsed}, {remaining} left]"
    with tqdm(total=images, disable=None, bar_format=form, leave=False) as bar:  # shown on a terminal only
        yield bar


def _show_file(path: Path) -> None:
    with tqdm.external_write_mode():
        typer.echo(path)


def _say(text: str) -> None:
    with tqdm.external_write_mode():
        typer.echo(text, err=True)


def _complain(failure: "Failure") -> None:
    place = f"{failure.source}: " if failure.source else ""
    with tqdm.external_write_mode():
        typer.secho(f"error: {place}{redact(failure.message)}", fg="red", err=True)
