"""The verb `serve` as a process: start, refusals, many clients at once, memory, and its end."""

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import psutil
import pytest
from PIL import Image

from flows.generation.generator import DEFAULT_MODEL
from tests.processes import PATIENCE_S, Processes, wait_until
from tests.serving import as_bytes, data_url, get, images_of

MIB = 1 << 20
SERVE = [sys.executable, "-m", "flows.cli", "serve", "--port", "0"]


@pytest.fixture
def processes() -> Iterator[Processes]:
    with Processes() as processes:
        yield processes


def start(processes: Processes, *options: str, **environment: str) -> tuple[subprocess.Popen, str, list[str]]:
    """Start a server; gives its process, its URL, and the lines that it printed."""
    server = processes.start(
        [*SERVE, *options], stdout=subprocess.PIPE, text=True, env={**os.environ, "OMP_NUM_THREADS": "1", **environment}
    )
    lines = []
    while not lines or "Ctrl-C" not in lines[-1]:
        lines.append(server.stdout.readline())
        assert lines[-1], "the server ended"
    return server, lines[0].split()[1].partition("?")[0], lines


def ask(url: str, token: str, seed: int, picture: str, steps: int = 1) -> httpx.Response:
    subjects = [{"label": "vehicle", "image": picture}]
    body = {"prompt": "a vehicle in the snow", "subjects": subjects, "seed": seed, "steps": steps}
    headers = {"Authorization": f"Bearer {token}"}
    return httpx.post(f"{url}v1/images/generations", json=body, headers=headers, timeout=PATIENCE_S)


def test_clients_at_once_with_a_token_and_a_clean_end(processes):
    server, url, lines = start(processes, "--host", "0.0.0.0")
    token = next(line.split()[1] for line in lines if line.startswith("Token"))
    assert get(f"{url}v1/models").status_code == 401
    picture = red_square(300)
    assert len(ask_at_once(8, url, token, picture)) == 8

    with ThreadPoolExecutor(3) as pool:
        asking = [pool.submit(ask, url, token, seed, picture, 200) for seed in range(3)]
        wait_until("the queue", lambda: get(f"{url}healthz").json()["waiting"] == 2)
        server.send_signal(signal.SIGINT)
        assert {one.result().status_code for one in asking} <= {499, 503}
    assert server.wait(PATIENCE_S) == 0
    assert server.stdout.read() == "stopped\n"


@pytest.mark.slow
def test_fifty_clients_do_not_hold_fifty_pictures(processes):
    """A picture of this size takes 34 MiB to decode: 50 at once would take 1.7 GiB."""
    server, url, lines = start(processes, "--host", "0.0.0.0")
    token = next(line.split()[1] for line in lines if line.startswith("Token"))
    picture = red_square(1500)
    images_of(ask(url, token, 0, picture))
    before = psutil.Process(server.pid).memory_info().rss
    assert len(ask_at_once(50, url, token, picture)) == 50
    assert peak_bytes(server.pid) - before < 500 * MIB


def red_square(side: int) -> str:
    """The URL of a transparent picture with a red square in its middle."""
    picture = Image.new("RGBA", (side, side))
    picture.paste((200, 20, 20, 255), (side * 4 // 15, side * 4 // 15, side * 4 // 5, side * 4 // 5))
    return data_url(as_bytes(picture))


def ask_at_once(clients: int, url: str, token: str, picture: str) -> set[bytes]:
    """The different images that clients get, each with a seed of its own."""
    with ThreadPoolExecutor(clients) as pool:
        made = [images_of(one) for one in pool.map(lambda seed: ask(url, token, seed, picture), range(clients))]
    return {one.tobytes() for (one,) in made}


def peak_bytes(pid: int) -> int:
    """The largest resident memory of a process so far."""
    (line,) = (line for line in Path(f"/proc/{pid}/status").read_text().splitlines() if line.startswith("VmHWM"))
    return int(line.split()[1]) * 1024


@pytest.mark.parametrize("lost", ["unet", "subject_diffusion.safetensors"])
def test_half_a_model_is_refused_at_the_start(tmp_path, lost):
    model = shutil.copytree(DEFAULT_MODEL, tmp_path / "model")
    (shutil.rmtree if (model / lost).is_dir() else Path.unlink)(model / lost)
    assert str(model) in refused("--model", str(model))


def test_bad_options_are_refused_at_the_start():
    assert "max_wating" in refused("--set", "max_wating=3")
    assert "max_waiting=none" in refused("--set", "max_waiting=none")
    assert "--host 203.0.113.7" in refused("--host", "203.0.113.7")
    assert "no/such" in refused("--model", "no/such")


def refused(*options: str) -> str:
    """The one line with which the server refuses to start."""
    from typer.testing import CliRunner

    from flows.cli import app

    done = CliRunner().invoke(app, ["serve", "--port", "0", *options])
    assert done.exit_code == 2, done.exception or done.output
    (line,) = done.stderr.splitlines()
    return line
