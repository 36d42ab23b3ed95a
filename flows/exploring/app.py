"""The explorer's web app: the page, its API and access control."""

from pathlib import Path

from fastapi import FastAPI
from fastapi.staticfiles import StaticFiles
from starlette.datastructures import MutableHeaders
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from flows.exploring.api import Explorer, make_router
from flows.exploring.review_api import make_review_router
from flows.serving.access import AccessControl
from flows.serving.bodies import BodyLimit
from flows.serving.errors import add_error_handlers, as_api_error
from flows.serving.limits import Limits
from labeling.errors import LabelingError

PAGE = Path(__file__).parent / "page"
"""Folder of the page, which needs no build step."""
_HEADERS = {
    "Content-Security-Policy": "default-src 'self'; img-src 'self' blob: data:; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
}


class SafeHeaders:
    """ASGI middleware that lets the page load from this server only, and no other page frame it."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on, and add the headers to its answer."""

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message).update(_HEADERS)
            await send(message)

        await self._app(scope, receive, send_with_headers)


def _respond(request: Request, error: Exception) -> Response:
    """Answer an expected error, which would otherwise be logged as a fault of the server."""
    return as_api_error(error).response()


def make_app(explorer: Explorer, token: str | None) -> ASGIApp:
    """Return the app.

    Args:
        explorer: what the page shows.
        token: access token; None for a server that only this machine reaches.
    """
    app = FastAPI(title="Subject-Diffusion explorer", docs_url=None, redoc_url=None, openapi_url=None)
    app.include_router(make_router(explorer))
    app.include_router(make_review_router(explorer))
    add_error_handlers(app)
    app.add_exception_handler(LabelingError, _respond)
    app.mount("/", StaticFiles(directory=PAGE, html=True))
    return AccessControl(SafeHeaders(BodyLimit(app, Limits())), token)
