"""One small base for all tests of the model."""

import copy
from collections.abc import Callable, Iterator
from pathlib import Path

import jaxtyping
import pytest
import torch

from model.config import ModelConfig
from model.subject_diffusion import SubjectDiffusion
from tests.shared_tokenizers import shared_tokenizers
from tests.small_model import small_config


@pytest.fixture(scope="session")
def base_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("small")
    small_config(folder)
    return folder


@pytest.fixture(scope="session")
def _built() -> dict[str, SubjectDiffusion]:
    """Networks by their settings; tests get copies, which cost a quarter of a load."""
    return {}


@pytest.fixture
def build(base_folder: Path, _built: dict[str, SubjectDiffusion]) -> Callable[..., SubjectDiffusion]:
    """Return a function that builds the small network with the paper's settings and those passed to it."""

    def build(**settings: object) -> SubjectDiffusion:
        config: ModelConfig = small_config(base_folder, **settings)
        torch.manual_seed(1)
        if (key := config.model_dump_json()) not in _built:
            _built[key] = SubjectDiffusion.from_base(config).eval()
        net = _built[key]
        return copy.deepcopy(net, {id(net.prompts): net.prompts})

    return build


@pytest.fixture
def untyped() -> Iterator[None]:
    """Turn off the shape checks of tests, which torch's compiler cannot trace."""
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)


@pytest.fixture(scope="module", autouse=True)
def _parse_tokenizers_once() -> Iterator[None]:
    with shared_tokenizers():
        yield
