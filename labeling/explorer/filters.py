"""Filters of the explorer's pages and facets, as SQL over the view `explored`."""

from typing import NamedTuple

from pydantic import BaseModel, ConfigDict, Field

from labeling.explorer.session import refuse_other_than_select


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

    def condition(self, captions: str | None) -> Condition:
        """Return the filter as a condition over `explored`.

        Args:
            captions: view with the captions; None without one.

        Raises:
            ExplorerError: `where` is not one condition.
        """
        parts = [Condition("true", ())]
        for column, values in (("state", self.states), ("reason", self.reasons), ("len(labels)", self.entities)):
            if values:
                parts.append(Condition(f"list_contains(?, {column})", (list(values),)))
        if self.labels:
            parts.append(Condition("list_has_all(labels, ?)", (list(self.labels),)))
        for rule in self.rules:
            parts.append(Condition("len([1 FOR c IN candidates IF list_contains(c.broken, ?)]) > 0", (rule,)))
        if self.text:
            parts.append(_text_condition(self.text, captions))
        if self.where.strip():
            refuse_other_than_select(f"SELECT 1 FROM explored WHERE ({self.where}\n)")
            parts.append(Condition(f"({self.where}\n)", ()))
        return Condition(" AND ".join(part.sql for part in parts), sum((part.values for part in parts), ()))


def _text_condition(text: str, captions: str | None) -> Condition:
    in_url = "contains(lower(url), lower(?))"
    if captions is None:
        return Condition(in_url, (text,))
    in_caption = f"key IN (SELECT key FROM {captions} WHERE contains(lower(caption), lower(?)))"
    return Condition(f"({in_url} OR {in_caption})", (text, text))
