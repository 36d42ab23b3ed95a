"""The report of an evaluation: `report.md`, and `report.html` with small images in it."""

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np

from evaluation.benchmarks.published import published_rows
from evaluation.report.choices import choices_table
from evaluation.report.pictures import extremes, uncurated
from evaluation.report.score_table import ScoreTable
from evaluation.results import Evaluation
from evaluation.scores import metrics
from evaluation.scores.averages import figures_by_group, mean_of, shares_by_subject
from evaluation.scores.image_score import ImageScore
from evaluation.scoring import References
from infra.report.charts import Range, range_chart
from infra.report.document import Block, Chart, Document, Paragraph, Section, Table
from infra.report.html import to_html
from infra.report.markdown import to_markdown
from infra.storage import publish_bytes, storage_path


def evaluation_report(evaluations: Sequence[Evaluation], references: References, inputs: Mapping[str, int]) -> Document:
    """Return the report of one folder of images, a section for each protocol.

    Args:
        evaluations: its evaluations, one for each protocol.
        references: files of the subjects' photos.
        inputs: number of the input photo of each subject.
    """
    first = evaluations[0]
    sections = [
        Section(
            f"Protocol: {one.header.protocol.title}",
            list(_protocol_blocks(one)),
        )
        for one in evaluations
    ]
    shown = [metric for metric in list(first.figures) if metric in _likenesses(first)]
    galleries: list[Block] = [extremes(first, metric) for metric in shown]
    images = Section("Images", [*galleries, uncurated(first, references, inputs)])
    return Document(f"{first.header.method} on {first.header.benchmark_title}", [*sections, images])


def write_report(document: Document, folder: Path) -> tuple[Path, Path]:
    """Write the report as `report.md` and `report.html`, atomically, and return their paths."""
    markdown, html = folder / "report.md", folder / "report.html"
    publish_bytes(storage_path(markdown), to_markdown(document).encode())
    publish_bytes(storage_path(html), to_html(document).encode())
    return markdown, html


def _protocol_blocks(evaluation: Evaluation) -> Iterator[Block]:
    header = evaluation.header
    published = published_rows(header.benchmark, header.protocol.name)
    if header.unscored:
        yield Paragraph(
            f"Without a score of their own: {len(header.unscored):,} of {header.images:,} images. The table at the end "
            f"of this section names them."
        )
    yield ScoreTable.of([evaluation], published).render()
    yield from _other_metrics(evaluation)
    yield _group_table(evaluation)
    for name in _likenesses(evaluation):
        if rows := evaluation.by_metric.get(name):
            yield _subject_chart(evaluation, name, rows)
    if header.unscored:
        yield Table("Images without a score", ("Image", "Reason"), tuple(sorted(header.unscored.items())))
    yield choices_table(header)


def _other_metrics(evaluation: Evaluation) -> Iterator[Table]:
    rows = []
    for name, figure in evaluation.figures.items():
        if name not in _likenesses(evaluation):
            interval = f"{figure.low:.3f} to {figure.high:.3f}"
            rows.append((name, f"{figure.value:.3f}", interval, f"{figure.images:,}", _reading(evaluation, name)))
    if rows:
        headings = ("Metric", "Value", "95 % interval", "Images", "How to read it")
        yield Table("What a mean likeness hides", headings, tuple(rows))


def _reading(evaluation: Evaluation, name: str) -> str:
    header = evaluation.header
    meanings = {metric.name: metric.meaning for metric in metrics.all_metrics(header.protocol)}
    bounds = header.bounds.get(name.removesuffix(" copy"))
    if name.endswith(" copy") and bounds is not None and bounds.exact_copy is not None:
        found = f"{bounds.ordinary_copy:.3f} for ordinary photos, {bounds.exact_copy:.3f} for copies of the input"
        return f"{meanings[name]} It is {found}."
    return meanings[name]


def _group_table(evaluation: Evaluation) -> Table:
    names = _likenesses(evaluation)
    average = evaluation.header.protocol.average
    by_metric = {name: figures_by_group(evaluation.by_metric.get(name, ()), average) for name in names}
    groups = sorted({group for figures in by_metric.values() for group in figures})
    rows = []
    for group in groups:
        found = [by_metric[name].get(group) for name in names]
        images = max((one.images for one in found if one is not None), default=0)
        cells = ("" if one is None else f"{one.value:.3f} ({one.low:.3f} to {one.high:.3f})" for one in found)
        rows.append((group, f"{images:,}", *cells))
    return Table("Scores by what the prompt changes", ("Prompts", "Images", *names), tuple(rows))


def _subject_chart(evaluation: Evaluation, name: str, rows: Sequence[ImageScore]) -> Chart:
    values: dict[str, list[float]] = defaultdict(list)
    for row in rows:
        if row.value is not None:
            values[row.subjects].append(row.value)
    means = {
        key: mean_of([share]) for key, share in shares_by_subject(rows, evaluation.header.protocol.average).items()
    }
    ranges = [
        Range(subject, means[subject], *map(float, np.percentile(values[subject], (10, 90))))
        for subject in sorted(means, key=lambda one: (-means[one], one))
    ]
    bounds = evaluation.header.bounds.get(name)
    marks = [] if bounds is None else [("real photos", bounds.real(evaluation.header.protocol.average))]
    caption = f"{name} of each subject: mean, and range of 80 % of its images"
    cells = tuple((one.name, f"{one.value:.3f}", f"{one.low:.3f} to {one.high:.3f}") for one in ranges)
    table = Table(caption, ("Subject", "Mean", "10th to 90th percentile"), cells)
    return Chart(range_chart(caption, ranges, marks) if ranges else "", table)


def _likenesses(evaluation: Evaluation) -> list[str]:
    return list(ScoreTable.of([evaluation]).metric_names())
