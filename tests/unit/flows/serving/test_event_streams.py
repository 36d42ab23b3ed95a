"""Streams of events: an event that starts while the stream closes is answered when the page has left the stream."""

import asyncio
from collections.abc import Awaitable, Callable

from starlette.types import Message, Receive, Scope, Send

from flows.serving.event_streams import EventStreams

STREAM = {"type": "http", "path": "/gradio_api/queue/data", "query_string": b"session_hash=me"}
START = {"type": "http", "path": "/gradio_api/queue/join", "query_string": b""}


async def app(scope: Scope, receive: Receive, send: Send) -> None:
    """An app in which every stream closes at once, and every request is answered."""
    if scope["path"] == START["path"]:
        await receive()
    await send({"type": "http.response.start", "status": 200, "headers": []})
    body = b'data: {"msg":"close_stream"}' if scope["path"] == STREAM["path"] else b"joined"
    await send({"type": "http.response.body", "body": body, "more_body": True})
    await send({"type": "http.response.body", "body": b"", "more_body": False})


class Call:
    """A request to the app, whose messages `sent` lists."""

    def __init__(self, streams: EventStreams, scope: Scope, body: bytes = b"") -> None:
        self.sent: list[Message] = []
        self._messages: asyncio.Queue[Message] = asyncio.Queue()
        if body:
            self._messages.put_nowait({"type": "http.request", "body": body, "more_body": False})
        self.task = asyncio.create_task(streams(scope, self._messages.get, self._send))

    async def _send(self, message: Message) -> None:
        self.sent.append(message)

    def leave(self) -> None:
        """Close the connection."""
        self._messages.put_nowait({"type": "http.disconnect"})


def run(test: Callable[[EventStreams], Awaitable[None]], patience_s: float = 60) -> None:
    async def within_time() -> None:
        await asyncio.wait_for(test(EventStreams(app, patience_s)), 30)

    asyncio.run(within_time())


def test_the_next_event_waits_until_the_page_has_left_the_stream() -> None:
    async def test(streams: EventStreams) -> None:
        stream = Call(streams, STREAM)
        mine, other = (Call(streams, START, b'{"session_hash": "%s"}' % name) for name in (b"me", b"you"))
        await other.task
        for _ in range(50):
            await asyncio.sleep(0)
        assert len(stream.sent) == 2
        assert mine.sent == []
        stream.leave()
        await asyncio.gather(stream.task, mine.task)
        assert (len(stream.sent), len(mine.sent)) == (3, 3)

    run(test)


def test_after_some_seconds_nobody_waits_for_the_page() -> None:

    async def test(streams: EventStreams) -> None:
        stream, mine = Call(streams, STREAM), Call(streams, START, b'{"session_hash": "me"}')
        await asyncio.gather(stream.task, mine.task)
        assert (len(stream.sent), len(mine.sent)) == (3, 3)

    run(test, patience_s=0.05)


def test_a_body_that_starts_no_event_is_passed_on() -> None:
    async def test(streams: EventStreams) -> None:
        for body in (b"[", b"[1]", b"{}", b"\xff"):
            call = Call(streams, START, body)
            await call.task
            assert len(call.sent) == 3

    run(test)
