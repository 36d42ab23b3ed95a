"""Distributions of sizes and scores."""

from dataclasses import dataclass

from infra.report.charts import column_chart
from infra.report.document import Block, Chart, Section, Table
from labeling.report.staging import StagedDataset

_BINS = 24


@dataclass(frozen=True, slots=True)
class Quantity:
    """A number of each image or entity."""

    name: str
    sql: str
    table: str
    """`{sdd}` or `{entities}`."""
    low: float
    high: float
    """Range of the bins; smaller and larger values are in the first and the last."""


QUANTITIES = (
    Quantity("Smaller side of the image, px", "least(width_px, height_px)", "{sdd}", 0, 2400),
    Quantity("Larger side of the image, px", "greatest(width_px, height_px)", "{sdd}", 0, 4800),
    Quantity("Width ÷ height of the image", "width_px / height_px", "{sdd}", 0, 3),
    Quantity("Aesthetic score", "aesthetic_score", "{sdd}", 4, 10),
    Quantity("Score of the detector", "score", "{entities}", 0, 1),
    Quantity("Box ÷ image, areas", "box_width_px * box_height_px / (width_px::DOUBLE * height_px)", "{entities}", 0, 1),
    Quantity("Width ÷ height of the box", "box_width_px / nullif(box_height_px, 0)", "{entities}", 0, 3.6),
    Quantity("Mask ÷ box, areas", "mask_area_px / nullif(box_width_px * box_height_px, 0)", "{entities}", 0, 1.2),
    Quantity("IoU of the mask as SAM predicts it", "predicted_iou", "{entities}", 0, 1.2),
    Quantity("Stability of the mask", "stability", "{entities}", 0, 1.2),
)


def distributions_section(dataset: StagedDataset) -> Section:
    """Return a histogram of each quantity that the dataset has."""
    charts = (_histogram(dataset, quantity) for quantity in QUANTITIES)
    blocks: list[Block] = [chart for chart in charts if chart is not None]
    return Section("Sizes and scores", blocks)


def _histogram(dataset: StagedDataset, quantity: Quantity) -> Chart | None:
    """Return the histogram; None if all values are missing, as aesthetic scores are of a list without them."""
    width = (quantity.high - quantity.low) / _BINS
    source = f"(SELECT ({quantity.sql})::DOUBLE AS value FROM {quantity.table})"
    ((count, missing, mean, least, most),) = dataset.rows(
        f"SELECT count(value), count(*) - count(value), avg(value), min(value), max(value) FROM {source}"
    )
    if not count:
        return None
    bins = dict(
        dataset.rows(
            f"SELECT greatest(least(floor((value - {quantity.low}) / {width}), {_BINS - 1}), 0)::INTEGER AS bin, "
            f"count(*) FROM {source} WHERE value IS NOT NULL GROUP BY bin"
        )
    )
    columns = [(f"{quantity.low + width * bin:.4g}", bins.get(bin, 0)) for bin in range(_BINS)]
    facts = f"mean {mean:.3g}, {least:.3g} to {most:.3g}, of {count:,}" + (f"; {missing:,} missing" if missing else "")
    table = Table(
        quantity.name,
        (f"{quantity.name}, from", "Count"),
        tuple((low, f"{count:,}") for low, count in columns),
        (f"{facts}. The first and the last bin also count what is beyond them.",),
    )
    return Chart(column_chart(f"{quantity.name}: {facts}", columns, facts), table)
