"""A Ray head as a user starts it, in processes of its own."""

import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil

ROOT = Path(__file__).parents[1]
CUT_OFF = {"RAY_AUTH_MODE": "disabled"}
"""Ray 2.5x may ask for a token where one lies in the home folder; these clusters listen on loopback alone."""


@contextmanager
def ray_head(cpus: int = 2) -> Iterator[dict[str, str]]:
    """`ray start --head` on a free port; the environment in which a driver joins it."""
    folder = f"/tmp/sd-{os.getpid()}"  # short: sockets live in it
    port = _free_port()
    address = f"127.0.0.1:{port}"
    env = os.environ | CUT_OFF | {"PYTHONPATH": str(ROOT)}
    how = ["--head", "--block", f"--num-cpus={cpus}", "--include-dashboard=false", "--object-store-memory=200000000"]
    where = ["--node-ip-address=127.0.0.1", f"--port={port}", f"--temp-dir={folder}"]
    command = [sys.executable, "-m", "ray.scripts.scripts", "start", *how, *where]
    head = subprocess.Popen(command, env=env, stdout=subprocess.DEVNULL)
    try:
        _wait_until_it_answers(address, env, head)
        yield {"RAY_ADDRESS": address, **CUT_OFF}
    finally:
        for process in [*psutil.Process(head.pid).children(recursive=True), psutil.Process(head.pid)]:
            process.kill()
        head.wait()


def _free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port: int = free.getsockname()[1]
        return port


def _wait_until_it_answers(address: str, env: dict[str, str], head: subprocess.Popen[bytes]) -> None:
    ask = [sys.executable, "-m", "ray.scripts.scripts", "status", f"--address={address}"]
    deadline = time.monotonic() + 120
    while subprocess.run(ask, env=env, capture_output=True).returncode:
        assert head.poll() is None, f"ray start ended with {head.returncode}"
        assert time.monotonic() < deadline, "ray start did not answer in two minutes"
        time.sleep(1)
