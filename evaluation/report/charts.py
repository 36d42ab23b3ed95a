"""Charts as SVG, whose colours are the page's: `currentColor`, and the variables of `evaluation.report.html`."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from html import escape

from evaluation.scores.tradeoff import Point, pareto_front

_ROW_PX, _LABEL_PX, _PLOT_PX, _TOP_PX, _FOOT_PX = 18, 170, 560, 8, 34
_TICKS = 5
_WIDTH_PX = _LABEL_PX + _PLOT_PX + 70


@dataclass(frozen=True, slots=True)
class Range:
    """A row of a chart: a value with a range."""

    name: str
    value: float
    low: float
    high: float


def range_chart(title: str, rows: Sequence[Range], marks: Sequence[tuple[str, float]] = ()) -> str:
    """Draw a dot and a range for each row, with values along the horizontal axis.

    Args:
        title: what the chart shows, for readers who cannot see it.
        rows: the rows, from top to bottom; at least one.
        marks: labelled vertical lines, such as the score of real photos.
    """
    axis = _Axis.of([end for row in rows for end in (row.low, row.high)] + [value for _, value in marks])
    height = _TOP_PX + _ROW_PX * len(rows)
    parts = [*_vertical_lines(axis, height), *_marks(axis, marks, height)]
    for number, row in enumerate(rows):
        y = _TOP_PX + _ROW_PX * number + _ROW_PX / 2
        low, value, high = (axis.x(end) for end in (row.low, row.value, row.high))
        parts.append(_text(_LABEL_PX - 8, y + 4, row.name, "end"))
        parts.append(f'<line x1="{low:.1f}" y1="{y}" x2="{high:.1f}" y2="{y}" stroke="var(--mark)" opacity=".45"/>')
        parts.append(f'<circle cx="{value:.1f}" cy="{y}" r="4" fill="var(--mark)"/>')
        parts.append(_text(_LABEL_PX + _PLOT_PX + 12, y + 4, f"{row.value:.3f}"))
    return _drawing(title, parts, _WIDTH_PX, height + _FOOT_PX)


def tradeoff_chart(title: str, points: Sequence[Point], across: str, up: str) -> str:
    """Draw settings by their likeness to the prompt (across) and to the subject (up), and join those no other beats.

    Args:
        title: what the chart shows, for readers who cannot see it.
        points: the settings; at least one.
        across: name of the likeness to the prompt.
        up: name of the likeness to the subject.
    """
    horizontal = _Axis.of([point.prompt for point in points])
    vertical = _Axis.of([point.subject for point in points])
    height = 320

    def y(value: float) -> float:
        return _TOP_PX + height - (height - 2 * _TOP_PX) * vertical.share(value)

    parts = list(_vertical_lines(horizontal, height + _TOP_PX))
    parts += [_text(_LABEL_PX - 8, y(tick) + 4, _round(tick), "end", "var(--soft)") for tick in vertical.ticks]
    front = " ".join(f"{horizontal.x(one.prompt):.1f},{y(one.subject):.1f}" for one in pareto_front(points))
    parts.append(f'<polyline points="{front}" fill="none" stroke="var(--mark)" opacity=".45"/>')
    for point in points:
        x = horizontal.x(point.prompt)
        parts.append(f'<circle cx="{x:.1f}" cy="{y(point.subject):.1f}" r="4" fill="var(--mark)"/>')
        parts.append(_text(x + 7, y(point.subject) - 5, point.name))
    parts.append(_text(_LABEL_PX + _PLOT_PX / 2, height + _TOP_PX + 32, across, "middle", "var(--soft)"))
    parts.append(_text(8, _TOP_PX + height / 2, up, "start", "var(--soft)"))
    return _drawing(title, parts, _WIDTH_PX, height + _TOP_PX + _FOOT_PX + 8)


@dataclass(frozen=True, slots=True)
class _Axis:
    """Values from left to right."""

    low: float
    high: float

    @classmethod
    def of(cls, values: Iterable[float]) -> "_Axis":
        """Return an axis that holds all values, with some air."""
        values = list(values)
        low, high = min(values), max(values)
        air = 0.06 * (high - low) or 0.05
        return cls(low - air, high + air)

    @property
    def ticks(self) -> list[float]:
        """Round values that are labelled."""
        rough = (self.high - self.low) / _TICKS
        size = 10.0 ** math.floor(math.log10(rough))
        step = next(size * factor for factor in (1, 2, 5, 10) if size * factor >= rough)
        return [step * number for number in range(math.ceil(self.low / step), math.floor(self.high / step) + 1)]

    def share(self, value: float) -> float:
        """Return the place of a value on the axis, 0 to 1."""
        return (value - self.low) / (self.high - self.low)

    def x(self, value: float) -> float:
        """Return the place of a value in pixels."""
        return _LABEL_PX + _PLOT_PX * self.share(value)


def _round(tick: float) -> str:
    return f"{round(tick, 6):g}"


def _vertical_lines(axis: _Axis, height: float) -> Iterable[str]:
    for tick in axis.ticks:
        x = axis.x(tick)
        yield f'<line x1="{x:.1f}" y1="{_TOP_PX}" x2="{x:.1f}" y2="{height}" stroke="var(--line)"/>'
        yield _text(x, height + 16, _round(tick), "middle", "var(--soft)")


def _marks(axis: _Axis, marks: Sequence[tuple[str, float]], height: float) -> Iterable[str]:
    for name, value in marks:
        x = axis.x(value)
        yield (
            f'<line x1="{x:.1f}" y1="{_TOP_PX}" x2="{x:.1f}" y2="{height}" stroke="var(--aside)" '
            'stroke-dasharray="4 3"/>'
        )
        yield _text(x, height + 30, f"{name} {value:.3f}", "middle", "var(--aside)")


def _text(x: float, y: float, text: str, anchor: str = "start", colour: str = "currentColor") -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" fill="{colour}">{escape(text)}</text>'


def _drawing(title: str, parts: Iterable[str], width: float, height: float) -> str:
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width:g} {height:g}" width="{width:g}" role="img" '
        f'font-family="system-ui, sans-serif" font-size="12"><title>{escape(title)}</title>{"".join(parts)}</svg>'
    )
