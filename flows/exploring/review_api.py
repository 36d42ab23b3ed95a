"""The API of corrections and audits, as JSON."""

import threading
from collections.abc import Sequence
from dataclasses import asdict
from datetime import UTC, datetime

from fastapi import APIRouter
from fastapi.responses import JSONResponse
from pydantic import BaseModel, ConfigDict, Field

from flows.exploring.api import Explorer, PlaceBody
from labeling.explorer.review import Change
from labeling.explorer.story import json_values, outline
from labeling.quality.estimate import table_6
from labeling.quality.gallery import examples
from labeling.quality.marks import MARKS, Audit, Mark, audit_names, read_audit
from labeling.quality.sample import draw_audit
from labeling.sdd.corrections import Correction, SeenEntity
from labeling.sdd.schema import Box

_EXAMPLES = 12
"""Images of each mark in the gallery."""


class _Body(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class BoxBody(_Body):
    """A box in pixels of the upright image."""

    x0: float = Field(allow_inf_nan=False)
    y0: float = Field(allow_inf_nan=False)
    x1: float = Field(allow_inf_nan=False)
    y1: float = Field(allow_inf_nan=False)

    def box(self) -> Box:
        """Return the box."""
        return Box(**self.model_dump())


class SeenBody(_Body):
    """An entity as the page showed it."""

    label: str
    box: BoxBody


class ChangeBody(_Body):
    """An entity as a person left it."""

    seen: SeenBody | None
    """The entity before; None for a new one."""
    label: str = Field(max_length=500)
    box: BoxBody
    is_removed: bool = False

    def change(self) -> Change:
        """Return the change."""
        seen = None if self.seen is None else SeenEntity(label=self.seen.label, box=self.seen.box.box())
        return Change(seen=seen, label=self.label, box=self.box.box(), is_removed=self.is_removed)


class CorrectionsBody(_Body):
    """Corrections of an image."""

    place: PlaceBody
    changes: tuple[ChangeBody, ...] = Field(max_length=1000)
    """Changed entities; others stay as they are."""


class MaskBody(_Body):
    """Request of a mask."""

    place: PlaceBody
    box: BoxBody


class AuditBody(_Body):
    """Request of a new audit."""

    name: str = Field(max_length=100)
    size: int = Field(default=1000, ge=1, le=100_000)
    """Images of the sample."""
    seed: int = Field(default=0, ge=0, lt=2**31)
    """Seed of the sample."""


class MarkBody(_Body):
    """A mark of an image."""

    place: PlaceBody
    mark: Mark | None
    """None removes the mark."""


def make_review_router(explorer: Explorer) -> APIRouter:
    """Return the routes of corrections and audits."""
    router = APIRouter()
    store, review, proposals = explorer.session.store, explorer.review, explorer.proposals
    audits: dict[str, Audit] = {}
    marking = threading.Lock()

    def audit_named(name: str) -> Audit:
        if name not in audits:
            audits[name] = read_audit(store, name)
        return audits[name]

    @router.get("/api/corrections/{shard}/{key}")
    def corrections(shard: str, key: str) -> JSONResponse:
        made = review.corrections(PlaceBody(shard=shard, key=key).place())
        return JSONResponse([_json(each.correction) | {"review": each.review} for each in made])

    @router.post("/api/corrections")
    def save(body: CorrectionsBody) -> JSONResponse:
        made = review.save(body.place.place(), [change.change() for change in body.changes])
        return JSONResponse({"review": review.name, "corrections": [_json(each) for each in made]})

    @router.post("/api/masks")
    def mask(body: MaskBody) -> JSONResponse:
        proposed = proposals.propose(body.place.place(), body.box.box())
        return JSONResponse({"outline": None if proposed is None else outline(proposed)})

    @router.get("/api/audits")
    def list_audits() -> JSONResponse:
        return JSONResponse([_summary(audit_named(name)) for name in audit_names(store)])

    @router.post("/api/audits")
    def draw(body: AuditBody) -> JSONResponse:
        with marking:
            audits[body.name] = draw_audit(store, explorer.session, body.name, body.size, body.seed)
        return JSONResponse(_summary(audits[body.name]))

    @router.get("/api/audits/{name}")
    def show(name: str) -> JSONResponse:
        return JSONResponse(_audit_json(audit_named(name)))

    @router.post("/api/audits/{name}/marks")
    def mark_image(name: str, body: MarkBody) -> JSONResponse:
        audit = audit_named(name)
        with marking:
            audit.mark(
                body.place.place().key, body.mark, review.author, datetime.now(UTC).isoformat(timespec="seconds")
            )
        return JSONResponse(_summary(audit))

    return router


def _json(correction: Correction) -> dict[str, object]:
    json = json_values(asdict(correction) | {"mask": None})
    assert isinstance(json, dict), "a correction is an object"
    return json


def _summary(audit: Audit) -> dict[str, object]:
    marked = sum(image.mark is not None for image in audit.images)
    rows = [asdict(each) for each in table_6(audit.images)]
    return {"name": audit.name, "images": len(audit.images), "marked": marked, "table": rows}


def _audit_json(audit: Audit) -> dict[str, object]:
    fields: Sequence[str] = ("shard", "key", "state", "stratum", "mark")
    images = [{name: getattr(image, name) for name in fields} for image in audit.images]
    gallery = {
        mark: [{"shard": image.shard, "key": image.key} for image in found]
        for mark, found in examples(audit.images, _EXAMPLES).items()
    }
    marks = {state: list(each) for state, each in MARKS.items()}
    json = json_values(_summary(audit) | {"sample": images, "gallery": gallery, "marks": marks})
    assert isinstance(json, dict), "an audit is an object"
    return json
