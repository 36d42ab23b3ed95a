"""The server of `subject-diffusion serve` in a thread of the test, on a free port of loopback."""

import base64
import io
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import uvicorn
from PIL import Image
from starlette.types import ASGIApp

from flows.cutout_networks import load_cutter
from flows.generation.generator import Generator
from flows.serving.app import make_app
from flows.serving.limits import Limits
from flows.serving.service import ImageService
from tests.processes import PATIENCE_S, wait_until

TAXI = Path("docs/pictures/taxi.png")


def make_service(generator: Generator, limits: Limits | None = None) -> ImageService:
    """A service with the small networks."""
    return ImageService(generator, load_cutter("demo"), limits or Limits())


@contextmanager
def running(
    service: ImageService, token: str | None = None, around: Callable[[ASGIApp], ASGIApp] = lambda app: app
) -> Iterator[str]:
    """Serve until the block ends; gives the URL. `around` wraps the app."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        config = uvicorn.Config(around(make_app(service, token)), log_level="error", timeout_graceful_shutdown=1)
        server = uvicorn.Server(config)
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
        thread.start()
        try:
            wait_until("the start of the server", lambda: server.started, thread.is_alive)
            yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        finally:
            server.should_exit = True
            service.queue.close()
            thread.join()


def get(url: str, **options: Any) -> httpx.Response:
    """As `httpx.get`, which waits five seconds by default: too short on a loaded machine."""
    return httpx.get(url, timeout=PATIENCE_S, **options)


def data_url(image: Image.Image | bytes) -> str:
    """An image, or any bytes, as a data URL."""
    return f"data:image/png;base64,{base64.b64encode(as_bytes(image)).decode()}"


def as_bytes(image: Image.Image | bytes, kind: str = "PNG", **options: object) -> bytes:
    """The bytes of an image file."""
    if isinstance(image, bytes):
        return image
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def images_of(response: httpx.Response) -> list[Image.Image]:
    """The images of a successful response."""
    assert response.status_code == 200, response.text
    return [Image.open(io.BytesIO(base64.b64decode(one["b64_json"]))) for one in response.json()["data"]]
