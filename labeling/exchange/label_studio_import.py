"""Corrections from Label Studio: the JSON export of a project that `label_studio_export` made.

The last annotation of a task that was not cancelled counts; a task without one was not reviewed. A region is the entity
that its id names, or else the entity of the largest overlap. https://labelstud.io/guide/task_format
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from labeling.errors import ExchangeError
from labeling.exchange.label_studio_export import region_id
from labeling.sdd.corrections import Action, Correction, SeenEntity, write_corrections
from labeling.sdd.membership import own_shards
from labeling.sdd.schema import Box, Entity, Layer
from labeling.sdd.shards import ShardStore

_SAME_PX = 0.5
"""Distance by which a side moves at least in a correction, in pixels; less is rounding."""
_SAME_IOU = 0.5
"""Least overlap by which a region without a known id is an entity."""


class _Entry(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore")


class _Value(_Entry):
    x: float
    y: float
    width: float
    height: float
    rotation: float = 0.0
    rectanglelabels: tuple[str, ...] = Field(min_length=1, max_length=1)


class _Region(_Entry):
    id: str = ""
    type: str
    value: object = None


class _Author(_Entry):
    email: str


class _Annotation(_Entry):
    result: tuple[_Region, ...]
    was_cancelled: bool = False
    completed_by: _Author | int | str | None = None
    updated_at: str | None = None


class _Data(_Entry):
    key: str = Field(pattern="^[0-9a-f]{32}$")


class _Task(_Entry):
    data: _Data
    annotations: tuple[_Annotation, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class ReviewedImage:
    """Columns of sdd/ that a correction refers to."""

    key: bytes
    width_px: int
    height_px: int
    entities: tuple[Entity, ...]


@dataclass(frozen=True, slots=True, eq=False)
class Region:
    """A rectangle of a review, in pixels. Two are never equal, even if one was drawn twice."""

    id: str
    label: str
    box: Box


def import_corrections(source: Path, root: str) -> dict[str, int]:
    """Write the corrections of a review to the dataset, and return their number by action.

    Args:
        source: JSON export of the project in Label Studio.
        root: folder of the dataset from which its tasks were made.

    Raises:
        ExchangeError: the file is no such export, or has an image that the dataset lacks.
    """
    store = ShardStore(root)
    reviews = _read_reviews(source)
    corrections: list[Correction] = []
    for shard in own_shards(store, Layer.SDD):
        for image in store.read(ReviewedImage, (Layer.SDD,), shard):
            if review := reviews.pop(image.key, None):
                corrections += _corrections(image, shard, review, source)
    if reviews:
        raise ExchangeError(f"{source}: {root} lacks {len(reviews)} of its images, first {min(reviews).hex()}")
    write_corrections(store, source.stem, corrections)
    actions = [each.action for each in corrections]
    return {action.value: actions.count(action) for action in Action}


def _read_reviews(source: Path) -> dict[bytes, _Annotation]:
    """Return the annotation that counts of each reviewed image, by key."""
    try:
        tasks = TypeAdapter(tuple[_Task, ...]).validate_python(json.loads(source.read_text(encoding="utf-8")))
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(map(str, first["loc"]))
        raise ExchangeError(f"{source}, {place}: {first['msg']}: give the JSON export of the project") from None
    except (OSError, ValueError) as error:
        raise ExchangeError(f"{source} cannot be read ({error}): give the JSON export of the project") from error
    finished = {task.data.key: [each for each in task.annotations if not each.was_cancelled] for task in tasks}
    return {bytes.fromhex(key): annotations[-1] for key, annotations in finished.items() if annotations}


def _corrections(image: ReviewedImage, shard: str, review: _Annotation, source: Path) -> Iterator[Correction]:
    regions = [_region(region, image, source) for region in review.result if region.type == "rectanglelabels"]
    matched = match(regions, image.entities)
    author = review.completed_by
    name = author.email if isinstance(author, _Author) else None if author is None else str(author)

    def correction(entity: Entity | None, action: Action, label: str | None, box: Box | None) -> Correction:
        return Correction(
            key=image.key,
            shard=shard,
            entity=None if entity is None else SeenEntity(label=entity.label, box=entity.box),
            action=action,
            label=label,
            box=box,
            mask=None,
            author=name,
            made_at=review.updated_at,
        )

    for index, entity in enumerate(image.entities):
        region = matched.get(index)
        if region is None:
            yield correction(entity, Action.REMOVED, None, None)
            continue
        if region.label != entity.label:
            yield correction(entity, Action.RELABELLED, region.label, None)
        if not _is_same_box(region.box, entity.box):
            yield correction(entity, Action.MOVED, None, region.box)
    for region in regions:
        if region not in matched.values():
            yield correction(None, Action.ADDED, region.label, region.box)


def match(regions: Sequence[Region], entities: Sequence[Entity]) -> Mapping[int, Region]:
    """Return the region of each entity by its index: by the region's id, then by overlap, the largest first."""
    known = {region_id(entity): index for index, entity in enumerate(entities)}
    matched = {known[region.id]: region for region in regions if region.id in known}
    rest = [region for region in regions if region.id not in known]
    pairs = [
        (region.box.iou(entities[i].box), i, region) for region in rest for i in set(known.values()) - set(matched)
    ]
    for iou, index, region in sorted(pairs, key=lambda pair: pair[:2], reverse=True):
        if iou >= _SAME_IOU and index not in matched and region not in matched.values():
            matched[index] = region
    return matched


def _region(region: _Region, image: ReviewedImage, source: Path) -> Region:
    place = f"{source}, image {image.key.hex()}, region {region.id!r}"
    try:
        value = _Value.model_validate(region.value)
    except ValidationError as error:
        raise ExchangeError(f"{place}: {error.errors()[0]['msg']}") from None
    if value.rotation:
        raise ExchangeError(f"{place} is rotated: draw it upright")
    x0, y0 = value.x / 100 * image.width_px, value.y / 100 * image.height_px
    x1, y1 = x0 + value.width / 100 * image.width_px, y0 + value.height / 100 * image.height_px
    box = Box(x0=max(x0, 0), y0=max(y0, 0), x1=min(x1, image.width_px), y1=min(y1, image.height_px))
    return Region(region.id, value.rectanglelabels[0], box)


def _is_same_box(box: Box, other: Box) -> bool:
    sides = zip((box.x0, box.y0, box.x1, box.y1), (other.x0, other.y0, other.x1, other.y1), strict=True)
    return all(abs(a - b) <= _SAME_PX for a, b in sides)
