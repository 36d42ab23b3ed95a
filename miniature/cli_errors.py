"""Reports bad input of the small world's commands in one line, with exit code 2, as the main program does."""

import argparse
from collections.abc import Iterator
from contextlib import contextmanager

from infra.config import SettingsError
from labeling.errors import LabelingError
from model.errors import ModelError


@contextmanager
def exit_on_bad_input(parser: argparse.ArgumentParser, *more: type[Exception]) -> Iterator[None]:
    """Exit with one line of explanation where the block raises an error about settings, files or weights.

    Args:
        more: further types of expected errors.
    """
    expected: tuple[type[Exception], ...] = (SettingsError, LabelingError, ModelError, OSError, *more)
    try:
        yield
    except expected as error:
        parser.error(str(error))
