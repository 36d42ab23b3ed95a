"""Link rot: URLs that could not be downloaded, by reason and by host."""

from infra.report.charts import bar_chart
from infra.report.document import Chart, Paragraph, Section, Table
from labeling.report.staging import StagedDataset
from labeling.sdd.schema import State

_REASONS, _HOSTS = 20, 25


def downloads_section(dataset: StagedDataset) -> Section:
    """Return the failed downloads by reason, and the hosts with most of them."""
    ((urls, failed),) = dataset.rows(f"SELECT count(*), count_if(state = '{State.NOT_DOWNLOADED}') FROM {{ledger}}")
    if not failed:
        return Section("Link rot", [Paragraph(f"No download of {urls:,} URLs failed.")])
    summary = Paragraph(f"{failed:,} of {urls:,} URLs ({failed / urls:.1%}) could not be downloaded.")
    return Section("Link rot", [summary, _reasons(dataset, failed), _hosts(dataset)])


def _reasons(dataset: StagedDataset, failed: int) -> Chart:
    rows = dataset.rows(
        f"SELECT reason, count(*) FROM {{ledger}} WHERE state = '{State.NOT_DOWNLOADED}' GROUP BY reason "
        "ORDER BY count(*) DESC, reason"
    )
    shown = [(reason, float(count), f"{count:,} ({count / failed:.1%})") for reason, count in rows[:_REASONS]]
    cells = tuple((reason, f"{count:,}", f"{count / failed:.1%}") for reason, count in rows)
    caption = "URLs that were not downloaded, by reason; http_404 is the HTTP status 404"
    return Chart(bar_chart(caption, shown), Table(caption, ("Reason", "URLs", "Share"), cells))


def _hosts(dataset: StagedDataset) -> Table:
    rows = dataset.rows(
        f"SELECT host, count(*), count_if(state = '{State.NOT_DOWNLOADED}') AS failed, "
        f"mode(reason) FILTER (state = '{State.NOT_DOWNLOADED}') "
        f"FROM {{ledger}} GROUP BY host HAVING failed > 0 ORDER BY failed DESC, host LIMIT {_HOSTS}"
    )
    cells = tuple(
        (host or "(no host)", f"{urls:,}", f"{failed:,}", f"{failed / urls:.1%}", reason)
        for host, urls, failed, reason in rows
    )
    caption = f"The {len(rows)} hosts with most URLs that were not downloaded"
    return Table(caption, ("Host", "URLs", "Not downloaded", "Share", "Most frequent reason"), cells)
