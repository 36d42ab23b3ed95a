"""Pages of images and counts of their properties.

A page begins after the last image of the page before (keyset paging), so the thousandth page costs as much as the
second: rows before it are not read.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, NamedTuple

from labeling.explorer.facets import Facet, count_sql, stored_counts_sql
from labeling.explorer.filters import Condition, ImageFilter
from labeling.explorer.session import DatasetSession

_CARD = """
SELECT shard, key, url, state, stage, reason, width_px, height_px,
    [{label: c.label, box: c.box} FOR c IN candidates IF len(c.broken) = 0] AS entities, corrections IS NOT NULL
FROM judged WHERE list_contains(?, shard) AND list_contains(?, key)
"""


class Place(NamedTuple):
    """Place of an image in the dataset."""

    shard: str
    key: bytes


class Order(StrEnum):
    """Order of the images on pages."""

    STORED = "stored"
    """By shard and key."""
    DOUBTFUL = "doubtful"
    """Most likely wrong first: by the lowest label-error score of the entities; images without one come last."""


@dataclass(frozen=True, slots=True)
class Card:
    """An image on a page."""

    place: Place
    url: str
    state: str
    stage: str
    """Stage that decided; `images` for one without a stored image."""
    reason: str
    width_px: int | None
    height_px: int | None
    entities: tuple[Mapping[str, object], ...]
    """Label and box of each entity that breaks no rule."""
    is_corrected: bool
    """Whether a build has taken in corrections of the image."""


@dataclass(frozen=True, slots=True)
class Page:
    """A page of images."""

    cards: tuple[Card, ...]
    is_last: bool


class FacetValue(NamedTuple):
    """A value of a facet, and the number of images or, for labels, of entities that have it."""

    value: tuple[object, ...]
    images: int


_DOUBT = "coalesce(quality, 2::FLOAT)"
"""Quality by which images are ordered; the scores themselves are at most 1."""


class Browser:
    """Pages and facets of a dataset.

    Args:
        session: session over the dataset.
    """

    def __init__(self, session: DatasetSession) -> None:
        self._session = session

    def page(self, images: ImageFilter, after: Place | None, size: int, order: Order = Order.STORED) -> Page:
        """Return `size` images.

        Args:
            images: filter of the images.
            after: last image of the page before; None for the first page.
            size: images of the page.
            order: order of the images.

        Raises:
            ExplorerError: the filter is invalid, or the query exceeds a limit.
        """
        condition = images.condition()
        if after is not None:
            condition = _and_after(condition, after) if order is Order.STORED else _and_after_doubt(condition, after)
        by = "shard, key" if order is Order.STORED else f"{_DOUBT}, shard, key"
        sql = f"SELECT shard, key FROM explored WHERE {condition.sql} ORDER BY {by} LIMIT {size + 1}"
        places = [Place(*row) for row in self._session.rows(sql, condition.values)]
        return Page(self._cards(places[:size]), len(places) <= size)

    def _cards(self, places: Sequence[Place]) -> tuple[Card, ...]:
        """Return the cards of these images, in their order."""
        shards = sorted({place.shard for place in places})
        rows = self._session.rows(_CARD, (shards, [place.key for place in places])) if places else []
        cards = {card.place: card for card in map(_card, rows)}
        return tuple(cards[place] for place in places if place in cards)

    def facet(self, facet: Facet, images: ImageFilter) -> list[FacetValue]:
        """Return the most frequent values of a facet among the filtered images; those of all images are in the index.

        Raises:
            ExplorerError: the filter is invalid, or the query exceeds a limit.
        """
        condition = images.condition()
        of_all = images == ImageFilter()
        sql = stored_counts_sql(facet) if of_all else count_sql(facet, "explored", condition.sql)
        return [FacetValue(row[:-1], row[-1]) for row in self._session.rows(sql, condition.values)]

    def count(self, images: ImageFilter) -> int:
        """Return the number of filtered images.

        Raises:
            ExplorerError: the filter is invalid, or the query exceeds a limit.
        """
        condition = images.condition()
        ((count,),) = self._session.rows(f"SELECT count(*) FROM explored WHERE {condition.sql}", condition.values)
        return int(count)

    def places(self, images: ImageFilter) -> Iterator[Place]:
        """Yield the places of all filtered images, by shard and key.

        Raises:
            ExplorerError: the filter is invalid, or the query exceeds a limit.
        """
        condition = images.condition()
        sql = f"SELECT shard, key FROM explored WHERE {condition.sql} ORDER BY shard, key"
        for rows in self._session.batches(sql, condition.values):
            yield from (Place(shard, key) for shard, key in rows)


def _and_after(condition: Condition, after: Place) -> Condition:
    """Return the condition for images after a place. The first comparison alone lets DuckDB skip rows unread."""
    sql = f"shard >= ? AND (shard > ? OR key > ?) AND {condition.sql}"
    return Condition(sql, (after.shard, after.shard, after.key, *condition.values))


def _and_after_doubt(condition: Condition, after: Place) -> Condition:
    """Return the condition for images after a place in the order of doubt."""
    place = f"(SELECT ({_DOUBT}, shard, key) FROM explored WHERE shard = ? AND key = ?)"
    return Condition(f"({_DOUBT}, shard, key) > {place} AND {condition.sql}", (*after, *condition.values))


def _card(row: tuple[Any, ...]) -> Card:
    shard, key, url, state, stage, reason, width_px, height_px, entities, is_corrected = row
    return Card(Place(shard, key), url, state, stage, reason, width_px, height_px, tuple(entities), is_corrected)
