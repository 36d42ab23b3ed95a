"""The deployment on a real Prefect server, with a process work pool and its worker."""

import json
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
import yaml

from flows.experiment import Experiment
from infra.config import load
from labeling.errors import ShardStale, StageFailed, StageInterrupted
from labeling.sdd.query import funnel
from tests.processes import PATIENCE_S, Processes, wait_until
from tests.ray_head import ray_head

ROOT = Path(__file__).parents[2]


def test_the_deployment_has_the_parameters_of_the_demo():
    deployments = yaml.safe_load((ROOT / "infra" / "prefect.yaml").read_text())["deployments"]
    (build,) = [d for d in deployments if d["name"] == "build-sdd"]
    assert Experiment.model_validate(build["parameters"]).labeling == load(Experiment, "demo").labeling


@pytest.mark.parametrize(
    ("error", "again"),
    [
        (StageFailed("the device is gone"), False),
        (ShardStale("other settings"), False),
        (StageInterrupted("captions shard-00000: OSError"), True),
        (OSError("no answer"), True),
    ],
)
def test_what_may_pass_is_tried_again_and_nothing_else(error, again):
    from prefect.states import Failed

    from flows.build_sdd import is_retryable

    assert is_retryable(None, None, Failed(data=error)) is again


@pytest.fixture(scope="module")
def server(tmp_path_factory) -> Iterator[dict[str, str]]:
    """A Prefect server of its own; the environment that reaches it."""
    home = tmp_path_factory.mktemp("prefect")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    env = os.environ | {
        "PREFECT_HOME": str(home),
        "PREFECT_API_URL": f"http://127.0.0.1:{port}/api",
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        "PREFECT_LOGGING_EXTRA_LOGGERS": "labeling",
        "PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]]),
    }
    with Processes() as processes:
        command = [*PREFECT, "server", "start", "--port", str(port)]
        running = processes.start(command, env=env, stdout=subprocess.DEVNULL)
        health = f"http://127.0.0.1:{port}/api/health"
        wait_until("an answer of the server", lambda: answers(health), lambda: running.poll() is None)
        prefect(env, "work-pool", "create", "local", "--type", "process")
        prefect(env, "deploy", "--all", "--prefect-file", "infra/prefect.yaml")
        processes.start([*PREFECT, "worker", "start", "--pool", "local"], env=env, cwd=ROOT)
        yield env


PREFECT = [sys.executable, "-m", "prefect"]


def prefect(env: dict[str, str], *words: str, code: int = 0) -> str:
    done = subprocess.run([*PREFECT, "--no-prompt", *words], env=env, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == code, done.stdout + done.stderr
    return done.stdout + done.stderr


def answers(url: str) -> bool:
    try:
        return httpx.get(url, timeout=PATIENCE_S).status_code == 200
    except httpx.HTTPError:
        return False


@pytest.fixture(scope="module")
def labeling(tmp_path_factory) -> Iterator[dict[str, object]]:
    """Parameters for a small list whose pictures are being served."""
    from miniature.untrained import write_networks
    from miniature.world.serve import WorldConfig, world_server, write_world

    folder = tmp_path_factory.mktemp("world")
    urls = write_world(folder / "world", 40, seed=3, config=WorldConfig(port=0))
    write_networks(folder / "networks", seed=0)
    settings = load(Experiment, "demo").labeling.model_dump(mode="json")
    settings |= {"root": str(folder / "sdd"), "urls": str(urls), "images_per_shard": 20, "shards_per_part": 1}
    settings["caption"]["checkpoint"] = str(folder / "networks" / "blip2")
    settings["detect"]["checkpoint"] = str(folder / "networks" / "grounding_dino")
    settings["segment"]["checkpoint"] = str(folder / "networks" / "sam")
    with world_server(folder / "world"):
        yield settings


@pytest.mark.slow
@pytest.mark.parametrize("executor", ["here", "ray"])
def test_the_deployment_runs(server, labeling, executor):
    mine = labeling | {"executor": executor, "root": f"{labeling['root']}-{executor}"}
    said = run_deployment(server, mine)
    assert "Completed" in said
    assert funnel_total(mine["root"]) == 40


@pytest.mark.slow
def test_the_deployment_runs_on_a_cluster_that_is_there(server, labeling):
    mine = labeling | {"executor": "ray", "root": f"{labeling['root']}-cluster"}
    with ray_head() as env:
        said = run_deployment(server, mine, "--job-variable", f"env={json.dumps(env)}")
    assert "Completed" in said
    assert env["RAY_ADDRESS"] in said
    assert funnel_total(mine["root"]) == 40


@pytest.mark.slow
def test_a_wrong_setting_is_refused_before_anything_runs(server, labeling):
    wrong = labeling | {"rules": {"min_scroe": 0.3}, "root": f"{labeling['root']}-wrong"}
    said = run_deployment(server, wrong, code=1)
    assert "min_scroe" in said
    assert not Path(wrong["root"]).exists()


def run_deployment(env: dict[str, str], labeling: dict[str, object], *more: str, code: int = 0) -> str:
    words = ["--watch", "--params", json.dumps({"labeling": labeling}), *more]
    return prefect(env, "deployment", "run", "build-sdd/build-sdd", *words, code=code)


def funnel_total(root: str) -> int:
    return sum(urls for *_, urls, _ in funnel(root))
