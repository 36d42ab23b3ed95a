"""The properties of a dataset in Fig. 6 of the paper: lengths of captions, boxes per image, and a cloud of labels."""

from infra.report.charts import column_chart
from infra.report.cloud import word_cloud
from infra.report.document import Block, Chart, Section, Table
from labeling.report.labels import frequent_labels
from labeling.report.staging import StagedDataset

_LAST_WORDS, _LAST_BOXES, _CLOUD = 30, 15, 90
"""Bins from which on counts are summed, and labels in the cloud."""


def properties_section(dataset: StagedDataset) -> Section:
    """Return the three parts of Fig. 6."""
    blocks: list[Block] = [
        _histogram(dataset, "words", "Words per caption", _LAST_WORDS, (5, 15)),
        _histogram(dataset, "len(labels)", "Boxes per image", _LAST_BOXES, (1, 5)),
    ]
    if labels := frequent_labels(dataset, _CLOUD):
        caption = f"The {len(labels)} most frequent labels, by number of entities"
        cells = tuple((label, f"{entities:,}") for label, entities, *_ in labels)
        cloud = word_cloud(caption, [(label, entities) for label, entities, *_ in labels])
        blocks.append(Chart(cloud, Table(caption, ("Label", "Entities"), cells)))
    return Section("Captions, boxes and labels (Fig. 6)", blocks)


def _histogram(dataset: StagedDataset, value: str, name: str, last: int, usual: tuple[int, int]) -> Chart:
    """Return the number of images by a whole number.

    Args:
        dataset: the dataset.
        value: the number as SQL.
        name: name of the number.
        last: number from which on images are counted together.
        usual: range in which the paper has most images.
    """
    rows = dataset.rows(f"SELECT least({value}, {last}) AS bin, count(*) FROM {{sdd}} GROUP BY bin ORDER BY bin")
    counts = dict(rows)
    bins = [(f"{bin}+" if bin == last else f"{bin}", counts.get(bin, 0)) for bin in range(last + 1)]
    ((inside,),) = dataset.rows(f"SELECT count(*) FROM {{sdd}} WHERE {value} BETWEEN ? AND ?", *usual)
    total = sum(counts.values())
    share = f"{inside / (total or 1):.1%} of {total:,} images have {usual[0]} to {usual[1]}, as most of the paper's do"
    table = Table(name, (name, "Images"), tuple((bin, f"{count:,}") for bin, count in bins), (share,))
    return Chart(column_chart(f"{name}: {share}", bins, f"{name}: {share}"), table)
