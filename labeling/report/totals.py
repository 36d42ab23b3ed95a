"""The size of a dataset, and Table 5 of the paper beside it."""

from collections.abc import Sequence
from dataclasses import dataclass

from infra.report.document import Section, Table
from labeling.report.staging import StagedDataset

_PAPER = (
    ("SDD (the paper's)", "76M", "222M", "162K"),
    ("LVIS v1", "0.120M", "1.5M", "1200"),
    ("COCO", "0.123M", "0.9M", "91"),
    ("ADE20K", "0.028M", "0.7M", "2693"),
    ("Open Images", "1M", "2.7M", "600"),
    ("SA-1B", "11M", "1.1B", "none"),
)
"""Images, entities and classes by Table 5 of the paper."""


@dataclass(frozen=True, slots=True)
class Totals:
    """Size of a dataset."""

    urls: int
    """URLs with a verdict; 0 without a ledger."""
    images: int
    entities: int
    labels: int
    """Different labels."""
    several: int
    """Images with two or more entities."""
    words: int
    """Words of all captions."""


def totals(dataset: StagedDataset) -> Totals:
    """Count a dataset."""
    ((urls,),) = dataset.rows("SELECT count(*) FROM {ledger}")
    ((images, entities, several, words),) = dataset.rows(
        "SELECT count(*), coalesce(sum(len(labels)), 0)::BIGINT, count_if(len(labels) > 1), "
        "coalesce(sum(words), 0)::BIGINT FROM {sdd}"
    )
    ((labels,),) = dataset.rows("SELECT count(DISTINCT label) FROM {entities}")
    return Totals(urls, images, entities, labels, several, words)


def totals_table(names: Sequence[str], counted: Sequence[Totals]) -> Table:
    """Return the sizes of datasets side by side."""
    lines = (
        ("Input URLs with a verdict", [f"{one.urls:,}" for one in counted]),
        ("Images", [f"{one.images:,}" for one in counted]),
        ("Images of all URLs", [_share(one.images, one.urls) for one in counted]),
        ("Entities", [f"{one.entities:,}" for one in counted]),
        ("Labels", [f"{one.labels:,}" for one in counted]),
        ("Entities per image", [_mean(one.entities, one.images) for one in counted]),
        ("Images with several entities", [_share(one.several, one.images) for one in counted]),
        ("Words per caption", [_mean(one.words, one.images) for one in counted]),
    )
    return Table("Size", ("", *names), tuple((name, *cells) for name, cells in lines))


def scale_section(counted: Totals) -> Section:
    """Return Table 5 of the paper with this dataset in its first row."""
    own = ("This dataset", f"{counted.images:,}", f"{counted.entities:,}", f"{counted.labels:,}")
    note = "All rows but the first: values of the paper, Table 5. SA-1B has no labels."
    table = Table(
        "Scale beside annotated datasets", ("Dataset", "Images", "Entities", "Classes"), (own, *_PAPER), (note,)
    )
    return Section("Scale (Table 5)", [table])


def _share(part: int, whole: int) -> str:
    return f"{part / whole:.1%}" if whole else "-"


def _mean(total: int, count: int) -> str:
    return f"{total / count:.2f}" if count else "-"
