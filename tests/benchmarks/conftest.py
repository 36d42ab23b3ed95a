"""What all benchmarks share: the fixture through which they record their figures."""

from pathlib import Path

import pytest

from tests.benchmarks.history import Recorder


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--history", type=Path, help="file to which benchmarks append their figures as JSON lines")


@pytest.fixture
def record(request: pytest.FixtureRequest) -> Recorder:
    """Records figures of the test, with the load at its start."""
    return Recorder(request.node.nodeid.removeprefix("tests/benchmarks/"), request.config.getoption("--history"))
