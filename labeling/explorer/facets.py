"""Properties by which the explorer counts images, and their SQL over `explored`."""

from collections.abc import Mapping
from enum import StrEnum


class Facet(StrEnum):
    """A property by which images are counted."""

    VERDICT = "verdict"
    """State and reason of the ledger."""
    LABEL = "label"
    """Labels of entities."""
    RULE = "rule"
    """Rules that candidates break."""
    ENTITIES = "entities"
    """Number of entities."""


_COUNTS: Mapping[Facet, str] = {
    Facet.VERDICT: "SELECT state, reason, count(*) FROM {} WHERE {} GROUP BY ALL",
    Facet.LABEL: "SELECT label, count(*) FROM (SELECT unnest(labels) AS label FROM {} WHERE {}) GROUP BY label",
    Facet.RULE: "SELECT rule, count(*) FROM (SELECT unnest(rules) AS rule FROM {} WHERE {}) GROUP BY rule",
    Facet.ENTITIES: "SELECT len(labels), count(*) FROM {} WHERE {} GROUP BY ALL",
}
_ORDERS: Mapping[Facet, str] = {
    Facet.VERDICT: "3 DESC, 1, 2",
    Facet.LABEL: "2 DESC, 1",
    Facet.RULE: "2 DESC, 1",
    Facet.ENTITIES: "1",
}
MOST = 100
"""Values of a facet that are counted for the page, the most frequent ones, or the smallest numbers of entities."""


def count_sql(facet: Facet, table: str, condition: str) -> str:
    """Return SQL that counts the rows of a table by a property.

    Args:
        facet: the property.
        table: table with the columns of `explored`.
        condition: condition in SQL on the rows.
    """
    return f"{_COUNTS[facet].format(table, condition)} ORDER BY {_ORDERS[facet]} LIMIT {MOST}"


def table_of(facet: Facet) -> str:
    """Return the name of the index's table with the counts of all images."""
    return f"all_by_{facet}"


def stored_counts_sql(facet: Facet) -> str:
    """Return SQL that reads the counts of all images from the index."""
    return f"FROM {table_of(facet)} ORDER BY {_ORDERS[facet]}"
