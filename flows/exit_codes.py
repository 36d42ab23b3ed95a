"""Exit codes of the command line: an error that the user can fix gives one line on standard error and exit code 2."""

from collections.abc import Iterator
from contextlib import contextmanager

import typer

from evaluation.errors import EvaluationError
from flows.generation.errors import GenerationError
from infra.config import SettingsError
from infra.redaction import redact
from labeling.errors import LabelingError
from miniature.errors import AblationError, FolderError, WorldError
from model.errors import ModelError
from training.errors import TrainingError

EXPECTED: tuple[type[Exception], ...] = (
    AblationError,
    EvaluationError,
    FolderError,
    GenerationError,
    SettingsError,
    LabelingError,
    ModelError,
    TrainingError,
    WorldError,
)
"""Errors whose message tells the user what to do, so that no traceback is printed."""


@contextmanager
def exit_on_expected_error(*more: type[Exception]) -> Iterator[None]:
    """Print the message of an expected error and exit with code 2; let any other error through.

    Args:
        more: further kinds of errors that are expected inside the context.
    """
    try:
        yield
    except (*EXPECTED, *more) as error:
        typer.secho(f"error: {redact(str(error))}", fg="red", err=True)
        raise typer.Exit(2) from None


@contextmanager
def exit_on_storage_error(root: str) -> Iterator[None]:
    """Act as `exit_on_expected_error`, and report an unreadable file with the name of its dataset, `root`."""
    with exit_on_expected_error():
        try:
            yield
        except OSError as error:
            raise LabelingError(f"{root} cannot be read ({error}): check the storage") from error
