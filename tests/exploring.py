"""The server of `subject-diffusion explore` in a thread of the test, on a free port of loopback."""

import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import uvicorn

from flows.exploring.api import Explorer
from flows.exploring.app import make_app
from labeling.explorer.browse import Browser
from labeling.explorer.mask_proposals import MaskProposals
from labeling.explorer.pictures import Pictures
from labeling.explorer.review import Review
from labeling.explorer.session import DatasetSession
from labeling.stages.networks import Segmenter
from tests.processes import wait_until


def make_explorer(root: Path, load: Callable[[], Segmenter[Any]] | None = None) -> Explorer:
    """An explorer of a dataset, with thumbnails beside it. `load` loads the segmenter that proposes masks."""
    session = DatasetSession(str(root), root.parent / "cache")
    pictures = Pictures(session.store, root.parent / "cache")
    proposals = MaskProposals(pictures, load)
    review = Review(session.store, "eve", proposals)
    return Explorer(session, Browser(session), pictures, proposals, review, str(root))


@contextmanager
def exploring(explorer: Explorer, token: str | None = None) -> Iterator[str]:
    """Serve until the block ends; gives the URL."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        server = uvicorn.Server(
            uvicorn.Config(make_app(explorer, token), log_level="error", timeout_graceful_shutdown=1)
        )
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
        thread.start()
        try:
            wait_until("the start of the server", lambda: server.started, thread.is_alive)
            yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        finally:
            server.should_exit = True
            thread.join()
