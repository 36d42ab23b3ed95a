"""The report of a sweep: scores of each setting, their differences from the base, and the trade-off between them."""

from collections.abc import Iterator, Mapping, Sequence

from evaluation.report.comparison import comparison_sections
from evaluation.report.tradeoff_chart import tradeoff_chart
from evaluation.results import Evaluation
from evaluation.scores.metrics import CLIP_T
from evaluation.scores.tradeoff import Point, pareto_front
from infra.report.document import Chart, Document, Section, Table


def sweep_report(method: str, scored: Mapping[str, Sequence[Evaluation]]) -> Document:
    """Return the report of several settings of one model.

    Args:
        method: name of the model.
        scored: evaluations of each setting, by its name; the first setting is the base.
    """
    curves = Section("Trade-off between likeness to the subject and to the prompt", list(_curves(scored)))
    title = next(iter(scored.values()))[0].header.benchmark_title
    sections = comparison_sections(list(scored.values()))
    return Document(f"{method}, {len(scored)} settings on {title}", [*([curves] if curves.blocks else []), *sections])


def _curves(scored: Mapping[str, Sequence[Evaluation]]) -> Iterator[Chart]:
    for number, evaluation in enumerate(next(iter(scored.values()))):
        protocol = evaluation.header.protocol
        for spec in protocol.subject_encoders:
            points = [
                Point(name, found[CLIP_T].value, found[spec.metric].value)
                for name, evaluations in scored.items()
                for found in [evaluations[number].figures]
                if CLIP_T in found and spec.metric in found
            ]
            if points:
                yield _curve(points, spec.metric, protocol.name)


def _curve(points: Sequence[Point], metric: str, protocol: str) -> Chart:
    caption = f"{metric} and {CLIP_T} of each setting by the protocol “{protocol}”; the line joins the best"
    best = {point.name for point in pareto_front(points)}
    rows = tuple(
        (one.name, f"{one.prompt:.3f}", f"{one.subject:.3f}", "yes" if one.name in best else "no") for one in points
    )
    headings = ("Setting", CLIP_T, metric, "No other is better in both")
    return Chart(tradeoff_chart(caption, points, CLIP_T, metric), Table(caption, headings, rows))
