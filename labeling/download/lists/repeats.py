"""Chooses the row to fetch of each URL that the list repeats: the first that its values do not refuse."""

import duckdb

from labeling.config import DownloadConfig
from labeling.download.lists.url_list import variants_path
from labeling.errors import ShardCorrupt
from labeling.sdd.shards import ShardStore, open_parquet

_CHOSEN = """
SELECT min(list_row) FILTER (NOT is_refused) AS chosen
FROM (SELECT url_id, list_row, coalesce(
          (listed_width_px < $min_side_px AND listed_height_px IS NOT NULL)
       OR (listed_height_px < $min_side_px AND listed_width_px IS NOT NULL)
       OR aesthetic_score < $min_aesthetic_score::FLOAT
       OR punsafe > $max_punsafe::FLOAT
       OR pwatermark > $max_pwatermark::FLOAT, false) AS is_refused FROM variants)
GROUP BY url_id HAVING chosen > min(list_row)
"""
"""Query for lists of any length; its condition is that of `screening.verdict_of_values`, as a test checks."""


def repeats_to_fetch(store: ShardStore, config: DownloadConfig) -> frozenset[int]:
    """Return the rows of the list that are fetched although an earlier row has their URL, as that row is refused.

    The set is empty where an earlier version of this program planned the list, and the list is gone.

    Raises:
        ShardCorrupt: the file that the plan wrote for this is damaged.
    """
    path = variants_path(store)
    if not path.exists():
        return frozenset()
    with open_parquet(path) as file:
        variants = file.read()
    limits = config.model_dump(include={"min_side_px", "min_aesthetic_score", "max_punsafe", "max_pwatermark"})
    with duckdb.connect() as database:
        database.register("variants", variants)
        try:
            return frozenset(row for (row,) in database.execute(_CHOSEN, limits).fetchall())
        except duckdb.Error as error:
            raise ShardCorrupt(f"{path} lacks columns of a plan: move it away and run again") from error
