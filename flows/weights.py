"""`subject-diffusion weights`: which weights the settings name, which of them are here, and how to get the others."""

from __future__ import annotations

import json as json_format
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated

import typer

from flows.exit_codes import exit_on_expected_error
from flows.options import SetOption
from infra.config import load
from infra.logs import setup_logs

if TYPE_CHECKING:
    from flows.experiment import WeightsExperiment
    from infra.weights.findings import CheckedPart
    from infra.weights.sources import Cure

app = typer.Typer(help="Check the weights that settings name.", no_args_is_help=True, rich_markup_mode="markdown")


class Group(StrEnum):
    """Weights that are checked together."""

    LABELING = "labeling"
    """Those of the table `labeling`."""
    MODEL = "model"
    """Those of the table `model`: the base and the image encoder."""
    TRAINED = "trained"
    """The folder of a trained model, if one is named."""
    EVALUATION = "evaluation"
    """The encoders of `evaluation.encoders`, only if named: no other command reads them."""


_DEFAULT = (Group.LABELING, Group.MODEL, Group.TRAINED)


@app.command()
def check(
    config: Annotated[
        str, typer.Option("--config", help="Settings: a TOML file, or a name in infra/configs.")
    ] = "paper",
    set_: SetOption = None,
    model: Annotated[
        str | None, typer.Option("--model", metavar="FOLDER", help="Folder of a trained model, checked as well.")
    ] = None,
    variant: Annotated[
        str | None, typer.Option("--variant", help="Variant of the trained model's files, such as fp16.")
    ] = None,
    only: Annotated[
        list[Group] | None,
        typer.Option(
            "--only",
            help="Weights of a table of settings, or the trained model; may be repeated. Those of an evaluation are "
            "checked only if named.",
        ),
    ] = None,
    json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Check the weights that the settings name, offline and without loading them.

    Compares names, shapes and types of all tensors with those that the code expects, from the headers of the files.
    Values are not read. Hub ids are looked up in the local cache. Exits with code 1 if weights are missing, damaged
    or those of another network, and prints how to get them.
    """
    setup_logs()  # before the libraries that it silences are imported
    from flows.experiment import WeightsExperiment

    if model is None and (variant or only == [Group.TRAINED]):
        raise typer.BadParameter("--variant and --only trained need --model")
    with exit_on_expected_error():
        settings = load(WeightsExperiment, config, set_ or ())
        parts = list(_checked_parts(settings, only or _DEFAULT, model, variant))
    typer.echo(_json(parts) if json else _text(parts))
    if not all(part.fine for part in parts):
        raise typer.Exit(1)


def _checked_parts(
    settings: WeightsExperiment, groups: Sequence[Group], model: str | None, variant: str | None
) -> Iterator[CheckedPart]:
    from labeling.backends.check import check_labeling_weights
    from model.check import check_model_weights, check_trained_model

    if Group.LABELING in groups:
        yield from check_labeling_weights(settings.labeling)
    if Group.MODEL in groups:
        yield from check_model_weights(settings.model)
    if Group.TRAINED in groups and model is not None:
        yield from check_trained_model(model, variant)
    if Group.EVALUATION in groups:
        from evaluation.encoders.check import check_evaluation_weights

        yield from check_evaluation_weights(settings.evaluation.encoders)


def _json(parts: Sequence[CheckedPart]) -> str:
    from infra.weights.sources import hub_cache

    fine = all(part.fine for part in parts)
    report = {"fine": fine, "hub_cache": hub_cache(), "parts": [asdict(part) for part in parts]}
    return json_format.dumps(report, indent=2, ensure_ascii=False)


def _text(parts: Sequence[CheckedPart]) -> str:
    """Return a Markdown table with a line for each part, and the cures that it numbers."""
    from infra.weights.sources import hub_cache

    cures = list(dict.fromkeys(part.cure for part in parts if part.cure))
    lines = ["| part | source | state | size | what is wrong | cure |", "|---|---|---|--:|---|--:|"]
    for part in parts:
        number = str(cures.index(part.cure) + 1) if part.cure else ""
        cells = (part.part, part.source, part.state, _size(part.size_bytes), "; ".join(part.problems), number)
        lines.append(f"| {' | '.join(cells)} |")
    lines += [f"\n{part.part}: {note}." for part in parts for note in part.notes]
    lines += [_cure(number, cure) for number, cure in enumerate(cures, 1)]
    return "\n".join([*lines, f"\nThe hub's cache is {hub_cache()}."])


def _cure(number: int, cure: Cure) -> str:
    """Return a command to copy, and below it what to know about it."""
    size, licence = _size(cure.size_bytes), f"licence: {cure.licence}" if cure.licence else ""
    facts = [", ".join(fact for fact in (size, licence) if fact), cure.advice]
    return "\n    ".join([f"\n{number}.  {cure.command}", *(fact for fact in facts if fact)])


def _size(size_bytes: int | None) -> str:
    """Return a size with three digits: "15.0 GB"; empty for None."""
    if size_bytes is None:
        return ""
    size, unit = float(size_bytes), "B"
    for unit in ("B", "kB", "MB", "GB"):
        if size < 999.5 or unit == "GB":
            break
        size /= 1000
    return f"{size:.3g} {unit}" if unit != "B" else f"{size_bytes} B"
