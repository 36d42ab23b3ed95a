"""The comparison of methods: scores side by side, tests of their differences, and the same prompts and seeds."""

from collections.abc import Iterator, Sequence

from evaluation.benchmarks.published import published_rows
from evaluation.errors import EvaluationError, InvalidProtocol
from evaluation.report.pictures import side_by_side
from evaluation.report.score_table import ScoreTable
from evaluation.results import Evaluation
from evaluation.scores import metrics
from evaluation.scores.averages import shares_by_subject
from evaluation.scores.paired import Comparison, compare
from infra.report.document import Block, Document, Paragraph, Section, Table

CASES = 12
"""Cases whose images are shown side by side."""
Results = Sequence[Evaluation]
"""Evaluations of one method, one for each protocol."""


def comparison_report(methods: Sequence[Results]) -> Document:
    """Return the report of two or more methods; the first one is the base of all differences.

    Raises:
        InvalidProtocol: no protocol is common to all, or benchmarks, photos or weights differ.
        EvaluationError: a method has no score of a subject that another has.
    """
    names = " and ".join(results[0].header.method for results in methods)
    return Document(f"{names} on {methods[0][0].header.benchmark_title}", comparison_sections(methods))


def comparison_sections(methods: Sequence[Results]) -> list[Section]:
    """Return a section for each protocol that all methods have, and one with their images.

    Raises:
        InvalidProtocol: as `comparison_report`.
        EvaluationError: likewise.
    """
    by_protocol = [{one.header.protocol.name: one for one in results} for results in methods]
    common = [name for name in by_protocol[0] if all(name in other for other in by_protocol[1:])]
    if not common:
        names = "; ".join(f"{own[next(iter(own))].header.method}: {', '.join(own)}" for own in by_protocol)
        raise InvalidProtocol(f"no protocol is common to all ({names}): evaluate both by one protocol")
    tables = [[own[name] for own in by_protocol] for name in common]
    sections = [Section(f"Protocol: {own[0].header.protocol.title}", list(_blocks(own))) for own in tables]
    return [*sections, Section("Images", [side_by_side(tables[0], CASES)])]


def _blocks(evaluations: Sequence[Evaluation]) -> Iterator[Block]:
    header = evaluations[0].header
    yield ScoreTable.of(evaluations, published_rows(header.benchmark, header.protocol.name)).render()
    for other in evaluations[1:]:
        yield _test_table(evaluations[0], other)
    yield Paragraph(
        "Intervals: paired bootstrap over subjects. p: share of random exchanges of the methods, subject by subject, "
        "with a difference as large, two-sided. Better: if the interval excludes 0. Groups of subjects count "
        "as subjects, and share some of them."
    )


def _test_table(first: Evaluation, second: Evaluation) -> Table:
    names = (first.header.method, second.header.method)
    better_low = {one.name for one in metrics.all_metrics(first.header.protocol) if not one.higher_is_better}
    rows = []
    for name in first.by_metric:
        if name in second.by_metric:
            found = compare_metric(first, second, name)
            rows.append(
                (
                    name,
                    f"{found.first:.3f}",
                    f"{found.second:.3f}",
                    f"{found.difference:+.3f} ({found.low:+.3f} to {found.high:+.3f})",
                    f"{found.p_value:.4f}",
                    f"{found.subjects}",
                    _better(found, name in better_low, names),
                )
            )
    headings = ("Metric", *names, "Difference (95 % interval)", "p", "Subjects", "Better")
    return Table(f"{names[1]} minus {names[0]}, subject by subject", headings, tuple(rows))


def _better(found: Comparison, better_low: bool, names: tuple[str, str]) -> str:
    """Return the name of the method whose score is better, if the interval of the difference excludes 0."""
    if not found.differs:
        return "undecided"
    return names[int((found.difference > 0) != better_low)]


def compare_metric(first: Evaluation, second: Evaluation, metric: str) -> Comparison:
    """Return the difference of two methods by one metric.

    Raises:
        EvaluationError: their subjects differ.
    """
    average = first.header.protocol.average
    shares = [shares_by_subject(one.by_metric[metric], average) for one in (first, second)]
    try:
        return compare(*shares)
    except ValueError as error:
        raise EvaluationError(
            f"{metric} of {first.header.method} and {second.header.method}: {error}; make the missing images"
        ) from None
