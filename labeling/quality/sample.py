"""A stratified sample of the images that the rules have judged.

Strata are kept images by number of entities (1, 2, 3 and more) and by frequency of their labels, and dropped images by
the rule that is the reason of their verdict. Kept images with a label-error score below `DOUBTFUL` are strata of their
own, so that a sample holds enough of the likely errors. Labels are common if the most frequent ones up to them make
half of all entities; an image is common if all its labels are. Each stratum contributes in proportion to its size, but
at least `LEAST` images if it has them, without which its variance could not be estimated.
"""

import random
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from labeling.errors import QualityError
from labeling.quality.marks import Audit, AuditedImage, audit_names, refuse_bad_name
from labeling.sdd.shards import ShardStore

LEAST = 5
"""Least images of a stratum in a sample, if it has as many."""
DOUBTFUL = 0.5
"""Lowest label-error score of the entities of an image (`quality` of the explorer's index) that is not doubtful."""
_STRATA = f"""
WITH counts AS (SELECT label, count(*) AS n FROM (SELECT unnest(labels) AS label FROM explored) GROUP BY label),
running AS (SELECT label, sum(n) OVER (ORDER BY n DESC, label) - n AS before, sum(n) OVER () AS total FROM counts),
common AS (SELECT list(label) AS labels FROM running WHERE before < total / 2),
judged AS (SELECT key, shard, state, CASE WHEN state = 'kept'
    THEN format('{{}} of {{}} labels{{}}', CASE WHEN len(e.labels) < 3 THEN len(e.labels)::VARCHAR ELSE '3+' END,
        CASE WHEN len([l FOR l IN e.labels IF NOT list_contains(common.labels, l)]) = 0 THEN 'common' ELSE 'rarer' END,
        CASE WHEN quality < {DOUBTFUL} THEN ', doubtful' ELSE '' END)
    ELSE reason END AS stratum
FROM explored AS e CROSS JOIN common WHERE stage = 'sdd')
"""
_SIZES = f"{_STRATA} SELECT stratum, count(*) FROM judged GROUP BY stratum ORDER BY stratum"
_DRAWN = f"""{_STRATA}
SELECT stratum, state, arg_min({{'shard': shard, 'key': key}}, {{'hash': hash(key, ?), 'key': key}}, ?)
FROM judged GROUP BY stratum, state
"""
"""The first images of each stratum in a random order, without sorting the others."""


class Queries(Protocol):
    """Source of rows of the view `explored`: see `labeling.explorer.session`."""

    def rows(self, sql: str, values: Sequence[object] = ()) -> list[tuple[Any, ...]]:
        """Return all rows of a query."""


def draw_audit(store: ShardStore, queries: Queries, name: str, size: int, seed: int) -> Audit:
    """Draw the sample of a new audit, and save it without marks.

    Args:
        store: the dataset.
        queries: queries over the dataset.
        name: name of the audit.
        size: images of the sample, if the dataset has as many.
        seed: seed of the sample.

    Raises:
        QualityError: the name is taken or unusable, or no image has been judged.
    """
    refuse_bad_name(name)
    if name in audit_names(store):
        raise QualityError(f"the audit {name} exists: give another name")
    sizes = dict(queries.rows(_SIZES))
    if not sizes:
        raise QualityError("the rules have judged no image yet")
    wanted = allot(sizes, size)
    drawn = queries.rows(_DRAWN, (seed, max(wanted.values())))
    images = [
        AuditedImage(
            key=place["key"],
            shard=place["shard"],
            state=state,
            stratum=stratum,
            stratum_images=sizes[stratum],
            mark=None,
            author=None,
            made_at=None,
        )
        for stratum, state, places in drawn
        for place in places[: wanted[stratum]]
    ]
    images.sort(key=lambda image: (image.shard, image.key))
    random.Random(seed).shuffle(images)  # or a person would see stratum after stratum, and tire in the last
    audit = Audit(store, name, images)
    audit.save()
    return audit


def allot(sizes: Mapping[str, int], size: int) -> dict[str, int]:
    """Return the number of images to draw from each stratum.

    Args:
        sizes: images of each stratum.
        size: images to draw.
    """
    total = sum(sizes.values())
    return {name: min(images, max(LEAST, round(size * images / total))) for name, images in sizes.items()}
