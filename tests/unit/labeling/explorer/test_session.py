"""Queries end at their limits and when they are stopped, with a message that says why."""

import threading

import pytest

from labeling.errors import ExplorerError
from labeling.explorer.session import DatasetSession, QueryLimits, Stop
from tests.datasets import dataset_of_two
from tests.processes import PATIENCE_S

ENDLESS = "SELECT count(*) FROM range(1000000000000) AS one WHERE hash(one) = 1"
LARGE = "SELECT list(hash(one) ORDER BY hash(one)) FROM range(100000000) AS one"


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(dataset_of_two(tmp_path_factory.mktemp("explored") / "sdd"))


def test_a_query_that_takes_too_long_ends(root: str) -> None:
    session = DatasetSession(root, limits=QueryLimits(timeout_s=0.1))
    with pytest.raises(ExplorerError, match=r"took longer than 0\.1 s: narrow it down, or start"):
        session.table(ENDLESS)


def test_a_query_that_needs_too_much_memory_ends(root: str) -> None:
    session = DatasetSession(root, limits=QueryLimits(memory="50MB", timeout_s=PATIENCE_S))
    with pytest.raises(ExplorerError, match="needs more memory than 50MB: narrow it down, or start"):
        session.table(LARGE)


def test_a_query_is_stopped_from_another_thread(root: str) -> None:
    session, stop, ended = DatasetSession(root, limits=QueryLimits(timeout_s=PATIENCE_S)), Stop(), threading.Event()

    def ask() -> None:
        while not ended.wait(0.02):
            stop()

    asking = threading.Thread(target=ask)
    asking.start()
    try:
        with pytest.raises(ExplorerError, match="the query was stopped"):
            session.table(ENDLESS, stop)
    finally:
        ended.set()
        asking.join()
    assert session.table("SELECT 1").rows == ((1,),)
