from collections.abc import Iterator
from pathlib import Path

import pytest

from flows.generation.generator import DEFAULT_MODEL, Generator
from tests.shared_tokenizers import shared_tokenizers

TAXI = DEFAULT_MODEL.parents[2] / "docs" / "pictures" / "taxi.png"


@pytest.fixture(scope="session")
def generator() -> Generator:
    """The committed model, with batches of two images."""
    return Generator(device="cpu", max_batch=2)


@pytest.fixture
def taxi() -> Path:
    return TAXI


@pytest.fixture(scope="module", autouse=True)
def _parse_tokenizers_once() -> Iterator[None]:
    with shared_tokenizers():
        yield
