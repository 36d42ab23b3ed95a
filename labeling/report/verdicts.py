"""The verdicts on the input URLs: how many images each stage lost, and for which reasons."""

from infra.report.charts import bar_chart
from infra.report.document import Block, Chart, Paragraph, Section, Table
from labeling.report.staging import StagedDataset
from labeling.sdd.schema import Layer, State

_STAGES = (Layer.IMAGES, Layer.CAPTIONS, Layer.NOUNS, Layer.DETECTIONS, Layer.ENTITIES, Layer.SDD)
Verdicts = list[tuple[str, str, str, int]]
"""State, stage, reason and URLs of each verdict, in the order of the stages."""


def verdicts(dataset: StagedDataset) -> Verdicts:
    """Count the URLs by verdict."""
    stages = ", ".join(f"'{stage}'" for stage in _STAGES)
    return dataset.rows(
        "SELECT state, stage, reason, count(*) FROM {ledger} GROUP BY state, stage, reason "
        f"ORDER BY list_position([{stages}], stage), state = 'kept', count(*) DESC, state, reason"
    )


def verdicts_section(dataset: StagedDataset) -> Section:
    """Return the funnel from the list of URLs to the dataset."""
    counted = verdicts(dataset)
    if not counted:
        return Section("Verdicts", [Paragraph("This folder has no ledger, so verdicts are unknown.")])
    blocks: list[Block] = [_survivors(counted), _verdict_table(counted)]
    if rules := _rules_table(dataset):
        blocks.append(rules)
    return Section("Verdicts", blocks)


def _survivors(counted: Verdicts) -> Chart:
    total = left = sum(urls for *_, urls in counted)
    rows = [("input URLs", float(total), f"{total:,}")]
    for stage in _STAGES:
        left -= sum(urls for state, at, _, urls in counted if at == stage and state != State.KEPT)
        rows.append((f"after {stage}/", float(left), f"{left:,} ({left / total:.1%})"))
    caption = "URLs that are left after each stage"
    cells = tuple((name, text) for name, _, text in rows)
    return Chart(bar_chart(caption, rows), Table(caption, ("Stage", "URLs left"), cells))


def _verdict_table(counted: Verdicts) -> Table:
    total = sum(urls for *_, urls in counted)
    rows = tuple(
        (stage, state.replace("_", " "), reason or "-", f"{urls:,}", f"{urls / total:.2%}")
        for state, stage, reason, urls in counted
    )
    return Table("URLs by verdict", ("Stage", "State", "Reason", "URLs", "Share"), rows)


def _rules_table(dataset: StagedDataset) -> Table | None:
    """Return the candidates by the rules that they break; a candidate may break several."""
    rows = dataset.rows(
        "SELECT rule, count(*) FROM (SELECT unnest(broken) AS rule FROM {ledger}) GROUP BY rule "
        "ORDER BY count(*) DESC, rule"
    )
    if not rows:
        return None
    ((candidates,),) = dataset.rows("SELECT sum(candidates)::BIGINT FROM {ledger}")
    cells = tuple((rule, f"{count:,}", f"{count / candidates:.1%}") for rule, count in rows)
    note = f"Shares of {candidates:,} candidate boxes. A box may break several rules."
    return Table("Rules of App. B.1 that candidate boxes break", ("Rule", "Boxes", "Share"), cells, (note,))
