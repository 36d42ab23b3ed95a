"""Streams of events to the page that lose none.

Gradio sends the results of a page's events in one stream. When no event is left, it sends the message `close_stream`;
the page then leaves the stream, and opens another one for its next event. But a page that starts an event while this
message is under way takes the stream for open, and waits for ever (Gradio 6.31, client/js/src/utils/stream.ts). So the
answer to an event that starts after the message waits until the page has left the stream.
"""

import asyncio
import json
from contextlib import suppress
from urllib.parse import parse_qs

from starlette.types import ASGIApp, Message, Receive, Scope, Send

_STREAM, _START = "/gradio_api/queue/data", "/gradio_api/queue/join"
_CLOSE = b'"close_stream"'


class EventStreams:
    """ASGI middleware that lets a page leave its stream before it starts the next event.

    Args:
        app: the app behind it.
        patience_s: time that a page has to leave its stream, in seconds; a proxy may hide that it has left.
    """

    def __init__(self, app: ASGIApp, patience_s: float = 5.0) -> None:
        self._app = app
        self._patience_s = patience_s
        self._left: dict[str, asyncio.Event] = {}
        """Event by session, of a stream that was closed and that the page has not left yet."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on."""
        path = scope["path"] if scope["type"] == "http" else None
        if path == _STREAM:
            await self._stream(scope, receive, send)
        elif path == _START:
            await self._start(scope, receive, send)
        else:
            await self._app(scope, receive, send)

    async def _stream(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send a stream, and wait until the page leaves it before it ends."""
        session = parse_qs(scope["query_string"].decode("latin-1")).get("session_hash", [""])[0]
        left = asyncio.Event()

        async def send_all_but_end(message: Message) -> None:
            if _CLOSE in message.get("body", b""):
                self._left[session] = left
            if self._left.get(session) is not left or message.get("more_body", False):
                await send(message)

        try:
            await self._app(scope, receive, send_all_but_end)
            if self._left.get(session) is left:
                with suppress(TimeoutError):
                    await asyncio.wait_for(_disconnected(receive), self._patience_s)
                await send({"type": "http.response.body", "body": b"", "more_body": False})
        finally:
            left.set()
            if self._left.get(session) is left:
                del self._left[session]

    async def _start(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Start an event, and answer after the page has left a stream that was closed."""
        body = bytearray()

        async def receive_and_keep() -> Message:
            message = await receive()
            body.extend(message.get("body", b""))
            return message

        async def send_later(message: Message) -> None:
            if message["type"] == "http.response.start" and (left := self._left.get(_session(body))):
                await left.wait()
            await send(message)

        await self._app(scope, receive_and_keep, send_later)


async def _disconnected(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


def _session(body: bytes | bytearray) -> str:
    """Return the session of a request that starts an event; empty if it is no such request."""
    try:
        return str(json.loads(body)["session_hash"])
    except (ValueError, KeyError, TypeError):
        return ""
