"""One small base for all tests of training."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.shared_tokenizers import shared_tokenizers
from tests.small_model import small_config
from tests.training_run import small_job
from training.config import TrainingJob


@pytest.fixture(scope="session")
def base_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("small")
    small_config(folder)
    return folder


@pytest.fixture
def job(base_folder: Path, tmp_path: Path) -> Callable[..., TrainingJob]:
    """A job on the small model, but for the settings that are given, with its output in `tmp_path`/run."""
    return lambda **training: small_job(base_folder, **{"out": str(tmp_path / "run"), **training})


@pytest.fixture(scope="module", autouse=True)
def _parse_tokenizers_once() -> Iterator[None]:
    with shared_tokenizers():
        yield
