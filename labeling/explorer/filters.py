"""Filters of the explorer's pages and facets, as SQL over the view `explored`."""

from typing import NamedTuple

from pydantic import BaseModel, ConfigDict, Field

from labeling.explorer.session import refuse_other_than_select

_TEXT = """(contains(lower(url), lower(?))
    OR key IN (SELECT key FROM texts WHERE contains(lower(caption), lower(?))))"""


class Condition(NamedTuple):
    """A condition in SQL with the values of its parameters."""

    sql: str
    values: tuple[object, ...]


class ImageFilter(BaseModel):
    """Images that a page shows: those that meet every condition. An empty tuple sets no condition."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    states: tuple[str, ...] = ()
    """States of the ledger, one of which an image has."""
    reasons: tuple[str, ...] = ()
    """Reasons of verdicts, one of which an image has."""
    labels: tuple[str, ...] = ()
    """Labels of entities, all of which an image has."""
    rules: tuple[str, ...] = ()
    """Rules, each of which a candidate of the image breaks."""
    entities: tuple[int, ...] = ()
    """Numbers of entities, one of which an image has."""
    text: str = Field(default="", max_length=1000)
    """Text in the caption or in the URL, without regard to case."""
    where: str = Field(default="", max_length=20_000)
    """Condition in SQL over the columns of `explored`."""

    def condition(self) -> Condition:
        """Return the filter as a condition over `explored`.

        Raises:
            ExplorerError: `where` is not one condition.
        """
        parts = [Condition("true", ())]
        for column, values in (("state", self.states), ("reason", self.reasons), ("len(labels)", self.entities)):
            if values:
                parts.append(Condition(f"list_contains(?, {column})", (list(values),)))
        if self.labels:
            parts.append(Condition("list_has_all(labels, ?)", (list(self.labels),)))
        if self.rules:
            parts.append(Condition("list_has_all(rules, ?)", (list(self.rules),)))
        if self.text:
            parts.append(Condition(_TEXT, (self.text, self.text)))
        if self.where.strip():
            refuse_other_than_select(f"SELECT 1 FROM explored WHERE ({self.where}\n)")
            parts.append(Condition(f"({self.where}\n)", ()))
        return Condition(" AND ".join(part.sql for part in parts), sum((part.values for part in parts), ()))
