"""Tables of scores: methods side by side under one protocol on one benchmark, and never under two."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from evaluation.benchmarks.published import PublishedRow
from evaluation.errors import InvalidProtocol
from evaluation.protocols import Protocol
from evaluation.results import Evaluation
from evaluation.scores import metrics
from evaluation.scores.averages import Figure
from infra.report.document import Table


@dataclass(frozen=True)
class ScoreTable:
    """A table of one protocol. `of` is the only way to fill it, and it refuses evaluations by another protocol."""

    protocol: Protocol
    """Protocol of every row."""
    evaluations: tuple[Evaluation, ...]
    """Evaluations by that protocol."""
    published: tuple[PublishedRow, ...] = ()
    """Rows of publications that follow it."""

    @classmethod
    def of(cls, evaluations: Sequence[Evaluation], published: Iterable[PublishedRow] = ()) -> "ScoreTable":
        """Return the table of evaluations.

        Args:
            evaluations: one or more, by the same protocol on the same benchmark.
            published: rows of publications that follow the protocol, on the same benchmark.

        Raises:
            InvalidProtocol: protocols, benchmarks, photos or weights of encoders differ.
        """
        first = evaluations[0].header
        published = tuple(published)
        for row in published:
            if first.protocol.name not in row.protocols or first.benchmark not in row.benchmarks:
                raise InvalidProtocol(
                    f"{row.method} ({row.source}) follows {', '.join(row.protocols)} on {', '.join(row.benchmarks)}: "
                    f"no row for a table of {first.protocol.name} on {first.benchmark}"
                )
        for other in (one.header for one in evaluations[1:]):
            for name in ("protocol", "benchmark_hash", "photos_hash", "weights"):
                if getattr(other, name) != getattr(first, name):
                    raise InvalidProtocol(
                        f"{first.method} and {other.method} cannot share a table: their {_NAMES[name]} differ "
                        f"({_shorten(getattr(first, name))} and {_shorten(getattr(other, name))})"
                    )
        return cls(first.protocol, tuple(evaluations), published)

    def render(self) -> Table:
        """Return the table of likeness to subject and prompt."""
        header = self.evaluations[0].header
        names = list(self.metric_names())
        ours = [
            (
                one.header.method,
                "this evaluation",
                *(_with_interval(one.figures.get(name)) for name in names),
                _count(one),
            )
            for one in self.evaluations
        ]
        real = ("Real photos", "this evaluation, i ≠ j", *(self._real(name) for name in names), "")
        others = [
            (row.method, row.source, *(_number(row.scores.get(name)) for name in names), "") for row in self.published
        ]
        subjects = next((figure.subjects for figure in self.evaluations[0].figures.values()), 0)
        return Table(
            f"{header.benchmark_title} by the protocol “{self.protocol.name}”",
            ("Method", "Source", *names, "Images"),
            (*ours, real, *others),
            (
                f"In brackets: 95 % interval, bootstrap over {subjects} subjects (or groups of subjects).",
                *dict.fromkeys(note for row in self.published for note in row.notes),
            ),
        )

    def metric_names(self) -> Iterable[str]:
        """Return the likenesses of the protocol: to the subject by each encoder, to the prompt, and of faces."""
        yield from (spec.metric for spec in self.protocol.subject_encoders)
        if self.protocol.prompt_encoder is not None:
            yield metrics.CLIP_T
        if self.protocol.faces:
            yield metrics.IDENTITY

    def _real(self, name: str) -> str:
        bounds = self.evaluations[0].header.bounds.get(name)
        return "" if bounds is None else _number(bounds.real(self.protocol.average))


_NAMES = {
    "protocol": "protocols",
    "benchmark_hash": "benchmarks",
    "photos_hash": "subjects' photos",
    "weights": "encoders' weights",
}


def _shorten(value: object) -> str:
    return value.name if isinstance(value, Protocol) else str(value)[:60]


def _count(evaluation: Evaluation) -> str:
    """Return how many images have a score, so that those left out are seen."""
    header = evaluation.header
    return f"{header.images - len(header.unscored):,} of {header.images:,}"


def _with_interval(figure: Figure | None) -> str:
    return "" if figure is None else f"{figure.value:.3f} ({figure.low:.3f} to {figure.high:.3f})"


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.3f}"
