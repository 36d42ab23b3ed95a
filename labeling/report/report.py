"""The report of a dataset, written as one HTML page."""

from collections.abc import Iterator
from dataclasses import dataclass

from infra.report.document import Document, Section
from infra.report.html import to_html
from infra.storage import publish_bytes, storage_path
from labeling.report.audits import audits_section
from labeling.report.comparison import comparison_section
from labeling.report.distributions import distributions_section
from labeling.report.downloads import downloads_section
from labeling.report.gallery import gallery_section
from labeling.report.labels import labels_section
from labeling.report.properties import properties_section
from labeling.report.runs import NO_PRICES, Prices, runs_section
from labeling.report.staging import StagedDataset, staged
from labeling.report.totals import scale_section, totals, totals_table
from labeling.report.verdicts import verdicts_section


@dataclass(frozen=True, slots=True)
class ReportOptions:
    """What a report shows, and the memory for making it."""

    kept: int = 60
    """Images of the dataset in the gallery."""
    per_reason: int = 8
    """Images of the gallery for each reason for which images left the dataset, and for each mark of an audit."""
    memory_mb: int = 1024
    """Memory of DuckDB, in MiB."""
    prices: Prices = NO_PRICES
    """Prices for the cost of the runs."""


def write_report(root: str, file: str, against: str | None, options: ReportOptions = ReportOptions()) -> None:
    """Write the report of a dataset, beside its place and then renamed.

    Args:
        root: folder of the dataset.
        file: file to write, a path or an fsspec URL.
        against: folder of another build, with which it is compared; None for none.
        options: what the report shows.

    Raises:
        LabelingError: a folder holds no dataset, or one without a finished shard.
        ShardCorrupt: a file is damaged, or not part of its dataset.
    """
    with staged([root, *([against] if against else [])], options.memory_mb) as datasets:
        document = dataset_report(datasets[0], datasets[1] if against else None, options)
    publish_bytes(storage_path(file), to_html(document).encode())


def dataset_report(
    dataset: StagedDataset, against: StagedDataset | None = None, options: ReportOptions = ReportOptions()
) -> Document:
    """Return the report of a dataset; with another build, the comparison with it comes first."""
    return Document(f"Dataset {dataset.root}", list(_sections(dataset, against, options)))


def _sections(dataset: StagedDataset, against: StagedDataset | None, options: ReportOptions) -> Iterator[Section]:
    counted = totals(dataset)
    if against is not None:
        yield comparison_section(dataset, against, options.kept)
    yield Section("Size", [totals_table(("This dataset",), (counted,))])
    yield verdicts_section(dataset)
    yield gallery_section(dataset, options.kept, options.per_reason)
    if audits := audits_section(dataset, options.per_reason):
        yield audits
    yield properties_section(dataset)
    yield scale_section(counted)
    yield distributions_section(dataset)
    yield labels_section(dataset)
    yield downloads_section(dataset)
    yield runs_section(dataset, options.prices)
