"""Runs the app until SIGINT or SIGTERM, and then ends it without losing an answer that could still be given."""

import asyncio
import signal
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import uvicorn
from starlette.types import ASGIApp

_GRACE_S = 5
"""Time that open connections have to end after a signal, in seconds."""


class Server(uvicorn.Server):
    """Uvicorn's server, which calls `close` first, so that all who wait get their answer, and exits with code 0."""

    def __init__(self, config: uvicorn.Config, close: Callable[[], None], on_start: Callable[[], None]) -> None:
        super().__init__(config)
        self._close = close
        self._on_start = on_start

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Stop at SIGINT and SIGTERM; unlike uvicorn's, the signals do not end the process again afterwards."""
        before = {number: signal.signal(number, self.handle_exit) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Start, and report it."""
        await super().startup(sockets)
        self._on_start()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Call `close`, then end the connections."""
        await asyncio.to_thread(self._close)
        await super().shutdown(sockets)


def serve_app(app: ASGIApp, listener: socket.socket, close: Callable[[], None], on_start: Callable[[], None]) -> None:
    """Serve until a signal.

    Args:
        app: the app.
        listener: bound socket.
        close: called first at a signal, to close a queue for example.
        on_start: called when requests are answered.
    """
    config = uvicorn.Config(
        app, log_level="warning", access_log=False, timeout_graceful_shutdown=_GRACE_S, server_header=False
    )
    Server(config, close, on_start).run(sockets=[listener])
