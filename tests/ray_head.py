"""A Ray head as a user starts it, in processes of its own."""

import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.processes import Processes, wait_until

ROOT = Path(__file__).parents[1]
CUT_OFF = {"RAY_AUTH_MODE": "disabled"}
"""Ray 2.5x may ask for a token where one lies in the home folder; these clusters listen on loopback alone."""


RAY = [sys.executable, "-m", "ray.scripts.scripts"]


@contextmanager
def ray_head(cpus: int = 2, token: Path | None = None) -> Iterator[dict[str, str]]:
    """`ray start --head` on a free port; the environment in which a driver joins it.

    Args:
        token: file whose content everybody must know; the cluster then takes jobs, at RAY_API_SERVER_ADDRESS.
    """
    folder = f"/tmp/sd-{os.getpid()}"  # short: sockets live in it
    access = CUT_OFF if token is None else {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": str(token)}
    board = _free_port()
    jobs = [f"--include-dashboard={token is not None}", f"--dashboard-port={board}", "--dashboard-host=127.0.0.1"]
    port = _free_port()
    address = f"127.0.0.1:{port}"
    env = os.environ | access | {"PYTHONPATH": str(ROOT)}
    how = ["--head", "--block", f"--num-cpus={cpus}", "--object-store-memory=200000000", *jobs]
    where = ["--node-ip-address=127.0.0.1", f"--port={port}", f"--temp-dir={folder}"]
    command = [*RAY, "start", *how, *where]
    with Processes() as processes:
        head = processes.start(command, env=env, stdout=subprocess.DEVNULL)
        _wait_until_it_answers([*RAY, "status", f"--address={address}"], env, head)
        if token is not None:
            _wait_until_it_answers([*RAY, "job", "list", f"--address=http://127.0.0.1:{board}"], env, head)
        yield {"RAY_ADDRESS": address, "RAY_API_SERVER_ADDRESS": f"http://127.0.0.1:{board}", **access}


def _free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port: int = free.getsockname()[1]
        return port


def _wait_until_it_answers(ask: list[str], env: dict[str, str], head: subprocess.Popen[bytes]) -> None:
    def answers() -> bool:
        return subprocess.run(ask, env=env, capture_output=True).returncode == 0

    wait_until("an answer of ray start", answers, lambda: head.poll() is None)
