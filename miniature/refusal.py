"""What the commands of the small world do with bad input: one line and exit code 2, as the main program."""

import argparse
from collections.abc import Iterator
from contextlib import contextmanager

from infra.config import SettingsError
from labeling.errors import LabelingError
from model.errors import ModelError


@contextmanager
def refusing(parser: argparse.ArgumentParser, *more: type[Exception]) -> Iterator[None]:
    """Within, settings, files and weights that cannot be used end the process with what is wrong with them.

    Args:
        more: kinds of errors that are raised on purpose, beside those.
    """
    known: tuple[type[Exception], ...] = (SettingsError, LabelingError, ModelError, OSError, *more)
    try:
        yield
    except known as error:
        parser.error(str(error))
