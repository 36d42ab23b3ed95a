"""Corrections that a person makes while looking through a dataset: one file in corrections/ for each session."""

import re
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import NamedTuple

from labeling.errors import ExplorerError
from labeling.explorer.browse import Place
from labeling.explorer.mask_proposals import MaskProposals
from labeling.explorer.story import read_row
from labeling.sdd.arrow import row_of
from labeling.sdd.corrections import (
    Action,
    Correction,
    ReviewedCorrection,
    SeenEntity,
    read_corrections,
    write_corrections,
)
from labeling.sdd.schema import Box, JudgedCandidate, Layer
from labeling.sdd.shards import ShardStore


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """An entity as a person left it."""

    seen: SeenEntity | None
    """The entity before; None for a new one."""
    label: str
    box: Box
    is_removed: bool


class _Judged(NamedTuple):
    width_px: int
    height_px: int
    entities: frozenset[SeenEntity]


class Review:
    """The corrections that a person makes while the explorer runs.

    Args:
        store: the dataset.
        author: name of the person.
        proposals: masks that were proposed for boxes; a correction takes over the mask of its box.

    Raises:
        CorrectionError: an earlier file of corrections is unusable.
    """

    def __init__(self, store: ShardStore, author: str, proposals: MaskProposals) -> None:
        self.author = author
        slug = re.sub(r"[^A-Za-z0-9_-]+", "-", author).strip("-") or "somebody"
        self.name = f"explore-{slug}-{datetime.now(UTC):%Y%m%dT%H%M%S}"
        self._store = store
        self._proposals = proposals
        self._earlier = _by_place(read_corrections(store))
        self._made: dict[Place, list[Correction]] = {}
        self._writing = threading.Lock()

    def corrections(self, place: Place) -> list[ReviewedCorrection]:
        """Return the corrections of an image, the earliest first: those of earlier reviews, then those of this one."""
        made = [ReviewedCorrection(each, self.name) for each in self._made.get(place, ())]
        return [*self._earlier.get(place, ()), *made]

    def save(self, place: Place, changes: Sequence[Change]) -> list[Correction]:
        """Save the corrections of an image; they replace those that this review has of it.

        Raises:
            ExplorerError: the image has no candidates, or a build has changed them meanwhile; or a label is empty.
        """
        image = self._judged(place)
        made_at = datetime.now(UTC).isoformat(timespec="milliseconds")
        corrections = [each for change in changes for each in self._corrections(place, change, image, made_at)]
        with self._writing:
            self._made[place] = corrections
            write_corrections(self._store, self.name, [each for made in self._made.values() for each in made])
        return corrections

    def _judged(self, place: Place) -> _Judged:
        row = read_row(self._store, Layer.LEDGER, place)
        if row is None or not row.get("width_px"):
            raise ExplorerError(f"the image {place.key.hex()} has no boxes to correct: no stage has detected any")
        candidates = [row_of(JudgedCandidate, each) for each in row["candidates"]]
        seen = frozenset(SeenEntity(label=each.label, box=each.box) for each in candidates)
        return _Judged(row["width_px"], row["height_px"], seen)

    def _corrections(self, place: Place, change: Change, image: _Judged, made_at: str) -> list[Correction]:
        label, box = change.label.strip(), _clip(change.box, image)
        if change.seen is not None and change.seen not in image.entities:
            raise ExplorerError(f"the image {place.key.hex()} was built again meanwhile: open it again")
        if not change.is_removed and (not label or box.area_px < 1):
            raise ExplorerError(f"the box {label!r} needs a label, and a place inside the image")

        def made(action: Action, new_label: str | None, new_box: Box | None) -> Correction:
            return Correction(
                key=place.key,
                shard=place.shard,
                entity=change.seen,
                action=action,
                label=new_label,
                box=new_box,
                mask=None if new_box is None else self._proposals.mask(place, new_box),
                author=self.author,
                made_at=made_at,
            )

        if change.seen is None:
            return [] if change.is_removed else [made(Action.ADDED, label, box)]
        if change.is_removed:
            return [made(Action.REMOVED, None, None)]
        relabelled = [made(Action.RELABELLED, label, None)] if label != change.seen.label else []
        moved = [made(Action.MOVED, None, box)] if box != change.seen.box else []
        return relabelled + moved


def _by_place(corrections: Mapping[str, Sequence[ReviewedCorrection]]) -> dict[Place, list[ReviewedCorrection]]:
    by_place: dict[Place, list[ReviewedCorrection]] = {}
    for shard, made in corrections.items():
        for each in made:
            by_place.setdefault(Place(shard, each.correction.key), []).append(each)
    return by_place


def _clip(box: Box, image: _Judged) -> Box:
    (x0, x1), (y0, y1) = (
        (min(max(low, 0.0), size), min(max(high, 0.0), size))
        for low, high, size in ((box.x0, box.x1, image.width_px), (box.y0, box.y1, image.height_px))
    )
    return Box(x0=x0, y0=y0, x1=x1, y1=y1)
