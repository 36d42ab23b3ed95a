"""The API of the explorer's page: pages, facets, images, SQL and files of keys, as JSON."""

import asyncio
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import partial
from typing import Annotated

from fastapi import APIRouter, Request, Response
from fastapi import Path as PathParameter
from fastapi.responses import JSONResponse
from pydantic import BaseModel, ConfigDict, Field
from starlette.concurrency import run_in_threadpool

from labeling.explorer.browse import Browser, Order, Page, Place
from labeling.explorer.facets import Facet
from labeling.explorer.filters import ImageFilter
from labeling.explorer.key_files import KeyFormat, key_file
from labeling.explorer.mask_proposals import MaskProposals
from labeling.explorer.pictures import Picture, Pictures
from labeling.explorer.review import Review
from labeling.explorer.session import DatasetSession, Stop, Table
from labeling.explorer.story import json_values, story

Shard = Annotated[str, PathParameter(pattern=r"^shard-\d{5,}$")]
KeyDigits = Annotated[str, PathParameter(pattern="^[0-9a-f]{32}$")]
_POLL_S = 0.1
"""Seconds between two looks at whether the page still waits for an answer."""
_CACHED = {"Cache-Control": "private, max-age=86400"}


class _Body(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class PlaceBody(_Body):
    """Place of an image."""

    shard: str = Field(pattern=r"^shard-\d{5,}$")
    """Shard of the image."""
    key: str = Field(pattern="^[0-9a-f]{32}$")
    """Key of the image, in hexadecimal digits."""

    def place(self) -> Place:
        """Return the place with its key in bytes."""
        return Place(self.shard, bytes.fromhex(self.key))


class PageBody(_Body):
    """Request of a page."""

    images: ImageFilter = ImageFilter()
    """Filter of the images."""
    after: PlaceBody | None = None
    """Last image of the page before; None for the first page."""
    size: int = Field(default=60, ge=1, le=500)
    """Images of the page."""
    order: Order = Order.STORED
    """Order of the images."""


class FilterBody(_Body):
    """Request of counts."""

    images: ImageFilter = ImageFilter()
    """Filter of the images."""


class SqlBody(_Body):
    """A query that a person wrote."""

    sql: str = Field(max_length=20_000)
    """One SELECT statement."""


class ExportBody(_Body):
    """Request of a file of keys."""

    format: KeyFormat
    """Format of the file."""
    places: tuple[PlaceBody, ...] | None = None
    """The selected images; None for all filtered images."""
    images: ImageFilter = ImageFilter()
    """Filter of the images."""


@dataclass(frozen=True, slots=True)
class Explorer:
    """What the page shows."""

    session: DatasetSession
    browser: Browser
    pictures: Pictures
    proposals: MaskProposals
    review: Review
    root: str
    """Folder of the dataset."""


def make_router(explorer: Explorer) -> APIRouter:
    """Return the routes of the API. Its functions block, so each request has a thread."""
    router = APIRouter()
    browser, store = explorer.browser, explorer.session.store

    @router.get("/api/dataset")
    def dataset() -> JSONResponse:
        return JSONResponse(
            {
                "root": explorer.root,
                "author": explorer.review.author,
                "has_proposals": explorer.proposals.is_available,
            }
        )

    @router.post("/api/page")
    def page(body: PageBody) -> JSONResponse:
        after = None if body.after is None else body.after.place()
        return JSONResponse(_page_json(browser.page(body.images, after, body.size, body.order)))

    @router.post("/api/count")
    def count(body: FilterBody) -> JSONResponse:
        return JSONResponse({"count": browser.count(body.images)})

    @router.post("/api/facets/{facet}")
    def facet(facet: Facet, body: FilterBody) -> JSONResponse:
        values = browser.facet(facet, body.images)
        return JSONResponse([{"value": list(each.value), "count": each.images} for each in values])

    @router.get("/api/images/{shard}/{key}")
    def image(shard: Shard, key: KeyDigits) -> JSONResponse:
        return JSONResponse(json_values(story(store, _place(shard, key))))

    @router.get("/thumbnails/{shard}/{key}.webp")
    def thumbnail(shard: Shard, key: KeyDigits) -> Response:
        return Response(explorer.pictures.thumbnail(_place(shard, key)), media_type="image/webp", headers=_CACHED)

    @router.get("/pictures/{shard}/{key}")
    def picture(shard: Shard, key: KeyDigits) -> Response:
        return _response(explorer.pictures.upright(_place(shard, key)))

    @router.post("/api/sql")
    async def sql(body: SqlBody, request: Request) -> JSONResponse:
        start = time.monotonic()
        table = await _answer_while_connected(request, partial(explorer.session.table, body.sql))
        seconds = time.monotonic() - start
        return JSONResponse(json_values(asdict(table) | {"seconds": seconds}))

    @router.post("/api/keys")
    def keys(body: ExportBody) -> Response:
        chosen = browser.places(body.images) if body.places is None else (each.place() for each in body.places)
        name = f"keys.{body.format}"
        headers = {"Content-Disposition": f'attachment; filename="{name}"'}
        return Response(key_file(chosen, body.format), media_type="application/octet-stream", headers=headers)

    return router


async def _answer_while_connected(request: Request, query: Callable[[Stop], Table]) -> Table:
    """Run a query in a thread, and stop it if the page closes the request."""
    stop = Stop()
    answer = asyncio.ensure_future(run_in_threadpool(query, stop))
    while not answer.done():
        await asyncio.wait({answer}, timeout=_POLL_S)
        if not answer.done() and await request.is_disconnected():
            stop()
    return await answer


def _place(shard: str, key: str) -> Place:
    return Place(shard, bytes.fromhex(key))


def _response(picture: Picture) -> Response:
    return Response(picture.encoded, media_type=picture.media_type, headers=_CACHED)


def _page_json(page: Page) -> object:
    cards = [asdict(card) | {"place": {"shard": card.place.shard, "key": card.place.key}} for card in page.cards]
    return json_values({"cards": cards, "is_last": page.is_last})
