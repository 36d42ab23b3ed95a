"""Corrections of entities by people: `corrections/NAME.parquet`, beside the layers of a dataset.

Each file holds the corrections of one review. The next build takes them into `sdd/`. A correction names its entity by
the label and the box that the person saw, so it stays valid however often the dataset is corrected and built: the
program that takes corrections in follows an entity through earlier ones. An entity that was moved and relabelled in one
review has two corrections, both with the label and the box from before.
"""

import hashlib
import math
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum
from typing import TypeAlias

import pyarrow as pa
import pyarrow.parquet as pq

from infra.storage import open_binary, publish
from labeling.errors import CorrectionError
from labeling.sdd.arrow import Key, Label, record_of, row_of, schema_of
from labeling.sdd.schema import Box, Layer, Mask
from labeling.sdd.shards import ShardStore

CORRECTIONS = "corrections"
"""Folder of the files in a dataset."""
REMOVED = "removed"
"""Takes the place of the rules in the ledger, for a candidate that a person removed."""


class Action(StrEnum):
    """What a correction does to an entity."""

    MOVED = "moved"
    """It has another box."""
    RELABELLED = "relabelled"
    """It has another label."""
    REMOVED = "removed"
    """It is none."""
    ADDED = "added"
    """It is a new one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SeenEntity:
    """An entity as a person saw it: its label and box in `sdd/` or in `ledger/` at the time of the review."""

    label: Label
    box: Box


@dataclass(frozen=True, slots=True, kw_only=True)
class Correction:
    """A correction of one entity."""

    key: Key
    """Key of the image."""
    shard: Label
    """Shard of the image."""
    entity: SeenEntity | None
    """The entity before the review; None for an added one."""
    action: Label
    """An `Action`."""
    label: Label | None
    """Label after the correction of a relabelled or added entity; else None."""
    box: Box | None
    """Box after the correction of a moved or added entity, in pixels of the upright image; else None."""
    mask: Mask | None
    """Mask of a moved or added entity, if the person drew or accepted one; else None, and the segmenter masks the
    box."""
    author: str | None
    """Name, address or number of the person, as the program of the review gives it."""
    made_at: str | None
    """Time of the correction in ISO 8601, as the program of the review gives it."""


@dataclass(frozen=True, slots=True)
class ReviewedCorrection:
    """A correction, and the review that it comes from."""

    correction: Correction
    review: str
    """Name of its file without the suffix."""


Corrections: TypeAlias = Mapping[str, Sequence[ReviewedCorrection]]
"""Corrections of each shard that has any, the earliest first."""
NO_CORRECTIONS: Corrections = {}


def write_corrections(store: ShardStore, review: str, corrections: Sequence[Correction]) -> None:
    """Write the file of a review in the order of keys, and replace an earlier one of the same name."""
    rows = [record_of(each) for each in sorted(corrections, key=lambda each: each.key)]
    table = pa.Table.from_pylist(rows, schema=schema_of(Correction))
    path = store.root / CORRECTIONS / f"{review}.parquet"
    publish(path, lambda file: pq.write_table(table, file), replace=True)


def read_corrections(store: ShardStore) -> Corrections:
    """Read the corrections of all reviews.

    Raises:
        CorrectionError: a file or a row is unusable; the message names it.
    """
    made: defaultdict[str, list[ReviewedCorrection]] = defaultdict(list)
    for review in store.names(CORRECTIONS):
        for each in read_review(store, review):
            made[each.correction.shard].append(each)
    return {shard: sorted(each, key=_time) for shard, each in made.items()}


def read_review(store: ShardStore, review: str) -> list[ReviewedCorrection]:
    """Read the corrections of one review.

    Raises:
        CorrectionError: the file or a row is unusable; the message names it.
    """
    path = store.path(CORRECTIONS, review)
    schema = schema_of(Correction)
    try:
        with open_binary(path) as file:
            records = pq.read_table(file).select(schema.names).cast(schema).to_pylist()
    except (OSError, KeyError, ValueError, pa.ArrowException) as error:
        problem = " ".join(str(error).split())
        raise CorrectionError(
            f"{path} is no file of corrections ({problem}): import it again, or move it away"
        ) from error
    corrections = [row_of(Correction, record) for record in records]
    for number, correction in enumerate(corrections):
        if problem := next(_problems(correction), ""):
            raise CorrectionError(f"{path}, row {number}, image {correction.key.hex()}: {problem}")
    return [ReviewedCorrection(each, review) for each in corrections]


def refuse_unknown_images(store: ShardStore, corrections: Corrections) -> None:
    """Check that the list of URLs has all corrected images.

    Raises:
        CorrectionError: it lacks one; the message names it.
    """
    listed = set(store.shards(Layer.URLS))
    for shard, corrected in corrections.items():
        keys = set(store.keys(Layer.URLS, shard)) if shard in listed else set()
        for each in corrected:
            if each.correction.key not in keys:
                path, image = store.path(CORRECTIONS, each.review), each.correction.key.hex()
                raise CorrectionError(
                    f"{path} corrects the image {image} of {shard}, which the dataset lacks: move the "
                    "file away, or remove the rows of this image"
                )


def digest(corrections: Sequence[ReviewedCorrection]) -> str:
    """Return 8 hex digits that change with the corrections of a shard; empty if there are none."""
    return hashlib.sha256(repr(list(corrections)).encode()).hexdigest()[:8] if corrections else ""


def _problems(correction: Correction) -> Iterator[str]:
    """Yield what is wrong with a correction."""
    action = correction.action
    if action not in list(Action):
        yield f"action {action!r} is none of {', '.join(Action)}"
    if (correction.entity is None) != (action == Action.ADDED):
        yield f"entity is {'missing' if correction.entity is None else 'given'}, but the action is {action}"
    if (correction.label is not None) != (action in (Action.RELABELLED, Action.ADDED)) or correction.label == "":
        yield f"label is {correction.label!r}, but the action is {action}"
    if (correction.box is not None) != (action in (Action.MOVED, Action.ADDED)):
        yield f"box is {'missing' if correction.box is None else 'given'}, but the action is {action}"
    box = correction.box
    if box is not None and not (math.isfinite(box.area_px) and box.area_px > 0):
        yield f"{box} has no area"
    try:
        _instant(correction)
    except ValueError:
        yield f"made_at {correction.made_at!r} is not a time in ISO 8601"


def _instant(correction: Correction) -> datetime:
    """Return the time of a correction; the earliest one if it is unknown."""
    if correction.made_at is None:
        return datetime.min.replace(tzinfo=UTC)
    instant = datetime.fromisoformat(correction.made_at)
    return instant if instant.tzinfo else instant.replace(tzinfo=UTC)


def _time(reviewed: ReviewedCorrection) -> tuple[datetime, str]:
    return _instant(reviewed.correction), reviewed.review
