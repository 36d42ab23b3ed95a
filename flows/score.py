"""`subject-diffusion score`: the figures of the miniature world's labels, base and small model."""

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from flows.exit_codes import exit_on_expected_error
from flows.options import SetOption
from infra.config import load
from miniature.scoring.score_options import SAMPLING, Control, LeftOut, PlaceHint, ScoreOptions, SubjectSet
from model.sampling.guidance import Guidance

if TYPE_CHECKING:
    from miniature.scoring.figures import Figure, Table

app = typer.Typer(
    help="Score labels, a base or a model in the miniature world.", no_args_is_help=True, rich_markup_mode="markdown"
)
JudgeOption = Annotated[Path, typer.Option("--judge", help="Folder of the network that judges pictures.")]
EmbedderOption = Annotated[Path, typer.Option("--embedder", help="Folder of the network that ranks subjects.")]
SubjectsOption = Annotated[
    SubjectSet, typer.Option("--asked", help="Subjects: held_out for figures, untaught for choosing settings.")
]
GivenOption = Annotated[
    PlaceHint, typer.Option("--given", help="Information about a subject's place that the model gets.")
]
ThreadsOption = Annotated[int, typer.Option("--threads", min=1, help="Threads of PyTorch.")]
OutOption = Annotated[Path | None, typer.Option("--out", help="Folder for pictures and figures.json.")]
WeightsOption = Annotated[
    Path, typer.Option("--weights", help="Folder of judge, embedder, sam, and shape_embedder if it is there.")
]
WEIGHTS = Path("miniature/weights")
JUDGE, EMBEDDER = Path("miniature/weights/judge"), Path("miniature/weights/embedder")


@app.command()
def labels(
    config: Annotated[str, typer.Option("--config", help="Settings of the build: a TOML file, or a name.")],
    truth: Annotated[Path, typer.Option("--truth", exists=True, dir_okay=False, help="truth.parquet of the world.")],
    set_: SetOption = None,
    scoring: Annotated[
        Path | None, typer.Option("--scoring", help="New folder: also run each stage on its true input there.")
    ] = None,
    untaught_scenes: Annotated[
        int, typer.Option("--untaught-scenes", min=0, help="Scenes for masks on untaught backgrounds.")
    ] = 0,
    json: Annotated[Path | None, typer.Option("--json", help="Also write the figures to this file.")] = None,
) -> None:
    """Score a dataset of the miniature world against its truth, stage by stage and end to end.

    A noun is right if it names a subject, by its name or class word, or the background. A box is right if its
    label is one of its subject's words and their IoU is at least .5. An entity is right if noun and box are
    right and the mask's IoU is at least .75. Scenes with held-out subjects are counted apart.
    """
    from flows.experiment import Experiment
    from miniature.scoring.figures import write_json
    from miniature.scoring.label_score import TABLE, score_labels
    from miniature.scoring.true_layers import read_truth

    if scoring and scoring.exists():  # files of another build there would be scored as this build's
        raise typer.BadParameter(f"--scoring {scoring} exists: remove it, or give another folder")
    with exit_on_expected_error(OSError):
        labeling = load(Experiment, config, set_ or ()).labeling
        figures = score_labels(labeling, read_truth(truth), scoring, untaught_scenes)
    typer.echo(TABLE.text(figures))
    if json:
        write_json(figures, json)


@app.command()
def base(
    folder: Annotated[Path, typer.Argument(metavar="BASE", help="Folder of the base, in diffusers' layout.")],
    judge: JudgeOption = JUDGE,
    count: Annotated[int, typer.Option(min=1, help="Captions of each of the four kinds.")] = 128,
    steps: Annotated[int, typer.Option(min=1, help="Steps of the sampler.")] = 25,
    guidance: Annotated[float, typer.Option(help="Scale of classifier-free guidance.")] = 2.5,
    threads: ThreadsOption = 1,
    out: OutOption = None,
) -> None:
    """Score a base's pictures: an independent judge checks the background and the class of each subject."""
    import torch

    from miniature.networks.judge import load_judge
    from miniature.scoring.base_score import TABLE, load_base, score
    from miniature.scoring.figures import write_json

    torch.set_num_threads(threads)
    with exit_on_expected_error(OSError, ValueError):  # diffusers raises both for a folder that it cannot read
        pipeline, network = load_base(folder), load_judge(judge)
    figures = score(pipeline, network, count, steps, guidance, out)
    typer.echo(TABLE.text(figures))
    if out:
        write_json(figures, out / "figures.json")


@app.command()
def subjects(
    model: Annotated[Path, typer.Argument(help="Folder of an exported model.")],
    judge: JudgeOption = JUDGE,
    embedder: EmbedderOption = EMBEDDER,
    asked: SubjectsOption = SubjectSet.HELD_OUT,
    given: GivenOption = PlaceHint.OUTLINE,
    without: Annotated[
        list[LeftOut] | None, typer.Option(help="Conditions that are left out; may be repeated.  [default: each]")
    ] = None,
    text: Annotated[float, typer.Option(min=0, help="Scale of guidance by text.")] = SAMPLING.guidance.text,
    image: Annotated[float, typer.Option(min=0, help="Scale of guidance by image.")] = SAMPLING.guidance.image,
    threads: ThreadsOption = 1,
    out: OutOption = None,
) -> None:
    """Score a model on 60 subjects: independent networks check its pictures for subject and background.

    Each subject is given in one pose and requested in another. It counts as right if it is ranked first among
    all 60; chance is .017.
    """
    import torch

    from miniature.networks.judge import load_embedder, load_judge
    from miniature.scoring.subject_score import TABLE, score
    from model.subject_diffusion import SubjectDiffusion

    torch.set_num_threads(threads)
    with exit_on_expected_error(OSError):
        net = SubjectDiffusion.from_pretrained(model).eval().requires_grad_(False)
        networks = load_judge(judge), load_embedder(embedder)
        sampling = SAMPLING.model_copy(update={"guidance": Guidance(text=text, image=image)})
    options = ScoreOptions(asked, given, without or tuple(LeftOut), sampling)
    _print_and_keep(TABLE, score(net, *networks, options, out), out)


@app.command()
def cases(
    model: Annotated[Path, typer.Argument(help="Folder of an exported model.")],
    weights: WeightsOption = WEIGHTS,
    asked: SubjectsOption = SubjectSet.HELD_OUT,
    given: GivenOption = PlaceHint.BOX,
    count: Annotated[int, typer.Option(min=1, max=60, help="Cases with one subject, and with two.")] = 60,
    threads: ThreadsOption = 1,
    out: OutOption = None,
) -> None:
    """Score a model by all criteria of the ablations: similarity, R@1, class word, background, box and outline.

    On the subjects of `score subjects`, one to three in a picture as far as the model takes them, given boxes as
    from a user. Two are also drawn with their references exchanged. With `--given auto` the pipeline's default layout
    places one subject, with `--given nothing` the model itself; the subject is searched for in the picture.
    """
    import torch

    from miniature.scoring.case_scores import load_judges
    from miniature.scoring.cases_score import TABLE, score
    from model.subject_diffusion import SubjectDiffusion

    torch.set_num_threads(threads)
    with exit_on_expected_error(OSError):
        net = SubjectDiffusion.from_pretrained(model).eval().requires_grad_(False)
        judges = load_judges(weights, asked)
    _print_and_keep(TABLE, score(net, judges, asked, given, SAMPLING, count), out)


@app.command()
def controls(
    model: Annotated[Path, typer.Argument(help="Folder of an exported model.")],
    judge: JudgeOption = JUDGE,
    embedder: EmbedderOption = EMBEDDER,
    asked: SubjectsOption = SubjectSet.HELD_OUT,
    only: Annotated[list[Control] | None, typer.Option(help="Controls to score; may be repeated.")] = None,
    threads: ThreadsOption = 1,
    out: OutOption = None,
) -> None:
    """Score what the pipeline's controls do: sampler, several photos, strength, interpolation, generating into a photo.

    On the 60 subjects of `score subjects`, with the target's own outline given; 15 minutes on one core.
    """
    import torch

    from miniature.networks.judge import load_embedder, load_judge
    from miniature.scoring.control_pictures import draw
    from miniature.scoring.controls_score import TABLE, score
    from model.pipeline import SubjectDiffusionPipeline

    torch.set_num_threads(threads)
    with exit_on_expected_error(OSError):
        pipeline = SubjectDiffusionPipeline.from_pretrained(model)
        networks = load_judge(judge), load_embedder(embedder)
    figures = _print_and_keep(TABLE, score(pipeline, *networks, asked, only or list(Control)), out)
    if out:
        draw(pipeline, figures, asked, out)


@app.command()
def folder(
    pictures: Annotated[Path, typer.Argument(exists=True, file_okay=False, help="Folder of cut-outs, in PNG files.")],
    model: Annotated[Path, typer.Argument(help="Folder of an exported model.")],
    words: Annotated[Path, typer.Option(help="TOML file with the sub-folders of each class word.")],
    weights: WeightsOption = WEIGHTS,
    count: Annotated[int, typer.Option(min=2, help="Number of subjects, which are ranked against each other.")] = 40,
    threads: ThreadsOption = 1,
    out: OutOption = None,
) -> None:
    """Score a model on a folder of cut-outs that nothing here was made for, such as Tux Paint's stamps.

    Each cut-out is a reference, and is requested in a box by the public pipeline. From each class word in turn, the
    next file by the hash of its name is taken. `--out` gets a contact sheet.
    """
    import torch

    from miniature.scoring.case_scores import load_judges_of
    from miniature.scoring.cases_score import TABLE
    from miniature.scoring.folder_score import score
    from miniature.scoring.folder_subjects import choose_subjects
    from model.pipeline import SubjectDiffusionPipeline

    torch.set_num_threads(threads)
    with exit_on_expected_error(OSError):
        subjects = choose_subjects(pictures, words, count)
        pipeline = SubjectDiffusionPipeline.from_pretrained(model)
        judges = load_judges_of(weights, subjects)
    _print_and_keep(TABLE, score(pipeline, judges, pictures, subjects, out), out)


@app.command()
def distance(
    model: Annotated[Path, typer.Argument(help="Folder of an exported model.")],
    judge: JudgeOption = JUDGE,
    asked: SubjectsOption = SubjectSet.HELD_OUT,
    given: GivenOption = PlaceHint.BOX,
    count: Annotated[int, typer.Option(min=4, help="Pictures of each set.")] = 606,
    threads: ThreadsOption = 1,
    out: OutOption = None,
) -> None:
    """Score how far a model's pictures of one subject are, as a set, from real scenes: KID on the judge's features.

    Compare values of the same number of pictures only; a quarter of an hour on one core.
    """
    import torch

    from miniature.networks.judge import load_judge
    from miniature.scoring.distance_score import TABLE, score
    from model.subject_diffusion import SubjectDiffusion

    torch.set_num_threads(threads)
    with exit_on_expected_error(OSError):
        net = SubjectDiffusion.from_pretrained(model).eval().requires_grad_(False)
        network = load_judge(judge)
    _print_and_keep(TABLE, score(net, network, asked, given, SAMPLING, count), out)


@app.command()
def baselines(
    embedder: EmbedderOption = EMBEDDER,
    asked: SubjectsOption = SubjectSet.HELD_OUT,
    threads: ThreadsOption = 1,
    out: OutOption = None,
) -> None:
    """Score pictures that no model made, as a comparison for `score subjects`: outlines, mean colours, references."""
    import torch

    from miniature.networks.judge import load_embedder
    from miniature.scoring.figures import write_json
    from miniature.scoring.subject_baselines import TABLE, score

    torch.set_num_threads(threads)
    with exit_on_expected_error(OSError):
        network = load_embedder(embedder)
    figures = list(score(network, asked))
    typer.echo(TABLE.text(figures))
    if out:
        write_json(figures, out / "figures.json")


def _print_and_keep(table: "Table", figures: "Iterable[Figure]", out: Path | None) -> "list[Figure]":
    """Print figures as they are computed; with `out`, also write them to a file of that folder."""
    from miniature.scoring.figures import write_json

    kept = []
    typer.echo(table.head)
    for figure in figures:
        typer.echo(table.line(figure))
        kept.append(figure)
    if out:
        write_json(kept, out / "figures.json")
    return kept
