"""A limit on the memory that the bodies of requests take, for one request and for all together."""

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from flows.serving.errors import ApiError, too_many_requests
from flows.serving.limits import MIB, Limits

_DRAINED_BODIES = 4
"""Size, in largest bodies, up to which a refused body is read to its end. A client that is still sending would
otherwise see a broken connection in place of the error."""


class BodyLimit:
    """ASGI middleware that counts the bytes of bodies until their requests are answered.

    Args:
        app: the app behind it.
        limits: limits of the server.
    """

    def __init__(self, app: ASGIApp, limits: Limits) -> None:
        self._app = app
        self._limits = limits
        self._held_bytes = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on, or refuse it as too large."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        body = _Body(self, receive)
        answered = False

        async def send_unless_refused(message: Message) -> None:
            nonlocal answered
            if body.refusal is None or answered:
                answered = True
                await send(message)

        try:
            body.hold(_content_length(scope))
            await self._app(scope, body.receive, send_unless_refused)
        except ApiError as error:
            body.refusal = error
        finally:
            self._held_bytes -= body.held_bytes
        if body.refusal is not None and not answered:
            await body.drain()
            await body.refusal.response()(scope, receive, send)

    def hold(self, held_bytes: int, more: int) -> None:
        """Count further bytes of a body that holds `held_bytes`.

        Raises:
            ApiError: the body, or all bodies together, are too large.
        """
        if (size := held_bytes + more) > self._limits.max_body_bytes:
            message = f"the request has {size:,} bytes or more, but this server takes {self._limits.max_body_bytes:,}"
            raise ApiError(f"{message}: scale the images down", None, "request_too_large", status=413)
        if self._held_bytes + more > self._limits.max_held_bytes:
            raise too_many_requests(
                f"requests that wait or run hold {self._held_bytes / MIB:.0f} MiB, as much as this server takes: try "
                "again later",
                1,
            )
        self._held_bytes += more


class _Body:
    """Body of one request."""

    def __init__(self, limit: BodyLimit, receive: Receive) -> None:
        self.held_bytes = 0
        self.refusal: ApiError | None = None
        self._limit = limit
        self._receive = receive
        self._received_bytes = 0
        self._complete = False

    def hold(self, size: int) -> None:
        """Count bytes up to `size`, of which those that are counted already are not counted again."""
        if (more := size - self.held_bytes) > 0:
            self._limit.hold(self.held_bytes, more)
            self.held_bytes = size

    async def receive(self) -> Message:
        """Receive a message, and count its bytes; a body that is too large ends as if the client had gone."""
        message = await self._receive()
        self._note(message)
        try:
            self.hold(self._received_bytes)
        except ApiError as error:
            self.refusal = error
            return {"type": "http.disconnect"}
        return message

    async def drain(self) -> None:
        """Read the rest of the body without keeping it."""
        while not self._complete and self._received_bytes < _DRAINED_BODIES * self._limit._limits.max_body_bytes:
            self._note(await self._receive())

    def _note(self, message: Message) -> None:
        self._received_bytes += len(message.get("body", b""))
        self._complete = message["type"] == "http.disconnect" or not message.get("more_body", False)


def _content_length(scope: Scope) -> int:
    length = Headers(scope=scope).get("content-length", "0")
    return int(length) if length.isdecimal() else 0
