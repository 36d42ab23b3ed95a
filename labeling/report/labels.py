"""Labels of a dataset: the most frequent ones, and those that occur together."""

from infra.report.charts import bar_chart
from infra.report.document import Block, Chart, Section, Table
from infra.report.matrix import matrix_chart
from labeling.report.staging import StagedDataset

_SHOWN, _OF_MATRIX, _OF_PAIRS, _PAIRS = 30, 20, 200, 30
"""Labels in the chart, in the matrix, and among which pairs are counted; pairs in the table."""


def frequent_labels(dataset: StagedDataset, count: int) -> list[tuple[str, int, int, float]]:
    """Return label, entities, images and mean score of the most frequent labels, the most frequent first."""
    return dataset.rows(
        f"WITH top AS (SELECT label, count(*) AS entities, avg(score) AS score FROM {{entities}} GROUP BY label "
        f"ORDER BY entities DESC, label LIMIT {count}), "
        "found AS (SELECT unnest(list_distinct(labels)) AS label FROM {sdd}) "
        "SELECT label, entities, (SELECT count(*) FROM found WHERE found.label = top.label), score FROM top "
        "ORDER BY entities DESC, label"
    )


def labels_section(dataset: StagedDataset) -> Section:
    """Return the most frequent labels and their co-occurrence."""
    frequent = frequent_labels(dataset, _OF_PAIRS)
    if not frequent:
        return Section("Labels", [])
    blocks: list[Block] = [_frequency(frequent[:_SHOWN])]
    pairs = _pairs(dataset, [label for label, *_ in frequent])
    if pairs:
        blocks += [_matrix([label for label, *_ in frequent[:_OF_MATRIX]], pairs), _pair_table(pairs)]
    return Section("Labels", blocks)


def _frequency(frequent: list[tuple[str, int, int, float]]) -> Chart:
    caption = f"The {len(frequent)} most frequent labels"
    rows = [(label, float(entities), f"{entities:,}") for label, entities, *_ in frequent]
    cells = tuple(
        (label, f"{entities:,}", f"{images:,}", f"{score:.3f}") for label, entities, images, score in frequent
    )
    return Chart(bar_chart(caption, rows), Table(caption, ("Label", "Entities", "Images", "Mean score"), cells))


def _pairs(dataset: StagedDataset, labels: list[str]) -> list[tuple[str, str, int]]:
    """Return pairs of these labels and the number of images that have both, the most frequent pair first."""
    return dataset.rows(
        "WITH present AS (SELECT list_distinct([label FOR label IN labels IF list_contains(?, label)]) AS labels "
        "FROM {sdd}), "
        "several AS (SELECT labels FROM present WHERE len(labels) > 1), "
        "firsts AS (SELECT labels, unnest(labels) AS first FROM several), "
        "pairs AS (SELECT first, unnest(labels) AS second FROM firsts) "
        "SELECT first, second, count(*) AS images FROM pairs WHERE first < second GROUP BY ALL "
        "ORDER BY images DESC, first, second",
        labels,
    )


def _matrix(labels: list[str], pairs: list[tuple[str, str, int]]) -> Chart:
    caption = f"Images that have both labels, of the {len(labels)} most frequent"
    counts = {(first, second): images for first, second, images in pairs}
    rows = tuple(
        (first, *(f"{counts.get((min(first, second), max(first, second)), 0):,}" for second in labels))
        for first in labels
    )
    return Chart(matrix_chart(caption, labels, counts), Table(caption, ("", *labels), rows))


def _pair_table(pairs: list[tuple[str, str, int]]) -> Table:
    caption = f"The {min(_PAIRS, len(pairs))} most frequent pairs of the {_OF_PAIRS} most frequent labels"
    cells = tuple((f"{first} and {second}", f"{images:,}") for first, second, images in pairs[:_PAIRS])
    return Table(caption, ("Labels", "Images"), cells)
