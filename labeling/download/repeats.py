"""URLs that a list holds more than once: one row of each is fetched, the first that its list values do not refuse."""

import duckdb
import pyarrow.parquet as pq

from infra.storage import open_binary
from labeling.config import DownloadConfig
from labeling.download.url_list import variants_path
from labeling.sdd.shards import ShardStore

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
"""The condition is that of `screening.verdict_of_values`, for lists of any length; a test compares the two."""


def fetched_repeats(store: ShardStore, config: DownloadConfig) -> frozenset[int]:
    """The rows of the list that are fetched although an earlier row has their URL: all earlier ones are refused.

    None where the list was planned by an earlier version of this program and is not there any more.
    """
    path = variants_path(store)
    if not path.exists():
        return frozenset()
    with open_binary(path) as file:
        variants = pq.read_table(file)
    limits = config.model_dump(include={"min_side_px", "min_aesthetic_score", "max_punsafe", "max_pwatermark"})
    with duckdb.connect() as database:
        database.register("variants", variants)
        return frozenset(row for (row,) in database.execute(_CHOSEN, limits).fetchall())
