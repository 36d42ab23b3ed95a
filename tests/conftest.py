"""Fixtures of all tests: nothing here reaches the network or another cluster."""

import gc
import os
import shutil
import tempfile
from collections.abc import Iterator

import pytest
from hypothesis import HealthCheck, settings

from tests.bytecode import keep_bytecode_of_libraries
from tests.processes import Processes

gc.disable()  # until the tests are collected: see pytest_collection_finish
keep_bytecode_of_libraries()

settings.register_profile("any machine", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("any machine")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")


def pytest_collection_finish() -> None:
    """Exempt the imported modules from garbage collection.

    They are millions of objects, which every full collection would visit. Tokenizers and datasets allocate enough to
    cause many collections: without this a third of the CPU time of the tests of the model went there.
    """
    gc.enable()
    gc.collect()
    gc.freeze()


def pytest_unconfigure() -> None:
    """Return the modules to garbage collection, without which DuckDB reports leaks at the end of the process."""
    gc.unfreeze()


@pytest.fixture(scope="session")
def ray_cluster() -> Iterator[None]:
    """A Ray cluster of this test run alone, on its own ports and folder, with two CPUs and two GPUs in name only."""
    import ray

    folder = tempfile.mkdtemp(prefix="sd-ray-")  # short: sockets live in it
    root = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
    ray.init(
        address="local",
        num_cpus=2,
        num_gpus=2,
        include_dashboard=False,
        object_store_memory=200 << 20,
        _temp_dir=folder,
        logging_level="WARNING",
        runtime_env={"env_vars": {"PYTHONPATH": root}},
    )
    yield
    ray.shutdown()
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
def processes() -> Iterator[Processes]:
    """Starts processes that end with the test."""
    with Processes() as started:
        yield started
