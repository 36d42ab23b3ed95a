"""The web app: API, page, access control and limits."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import gradio as gr
from fastapi import FastAPI
from fastapi_offline import FastAPIOffline
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import ASGIApp

from flows.serving.access import AccessControl
from flows.serving.api import make_router
from flows.serving.bodies import BodyLimit
from flows.serving.errors import add_error_handlers
from flows.serving.event_streams import EventStreams
from flows.serving.page import CSS, THEME, make_page
from flows.serving.service import ImageService

_DESCRIPTION = """Images of your subjects, in the shape of OpenAI's API for images.

`openai.OpenAI(base_url="http://127.0.0.1:7860/v1", api_key=TOKEN)` works with it; `extra_body` takes the fields of
subjects and sampler.
"""


_METHODS = ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"]
_POSTS = ("/v1/images/generations", "/v1/images/edits")


async def _refuse_path(request: Request) -> Response:
    """Refuse paths below /v1/ that the API does not have, which would otherwise reach the page."""
    if request.url.path in _POSTS:
        raise HTTPException(405, f"{request.url.path} takes POST, not {request.method}", {"Allow": "POST"})
    raise HTTPException(404, f"there is no {request.url.path}: see /docs")


def make_app(service: ImageService, token: str | None) -> ASGIApp:
    """Return the app.

    Args:
        service: what makes the images; its queue is closed when the app shuts down.
        token: access token; None for a server that only this machine reaches.
    """

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        yield
        service.queue.close()

    app = FastAPIOffline(
        redoc_url=None, title="Subject-Diffusion", description=_DESCRIPTION, version="1", lifespan=lifespan
    )
    app.include_router(make_router(service))
    app.add_route("/v1/{path:path}", _refuse_path, methods=_METHODS, include_in_schema=False)
    add_error_handlers(app)
    gr.mount_gradio_app(
        app,
        make_page(service),
        path="/",
        theme=THEME,
        css=CSS,
        max_file_size=service.limits.max_body_bytes,
        show_error=True,
        footer_links=[],
    )
    return AccessControl(BodyLimit(EventStreams(app), service.limits), token)
